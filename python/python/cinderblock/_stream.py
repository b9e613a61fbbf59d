"""What a stream needs for `async for`."""

from __future__ import annotations

import asyncio

from cinderblock._native import Step, Stream


async def next_step(stream: Stream) -> Step:
    """Wait for a step in a thread, while other tasks run."""
    step = await asyncio.to_thread(next, stream, None)
    if step is None:
        raise StopAsyncIteration
    return step
