//! Listeners and connections: limits on their number, on headers, and on the time that a client may take.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::Server;

/// Time for the head of a request, and between two requests.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// Time in which a client must take some bytes.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;
/// Header lines of a request.
const HEADERS: usize = 64;

/// Where clients connect.
pub enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, bool)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), true))
            }
            #[cfg(unix)]
            Listener::Unix(listener) => Ok((Box::new(listener.accept().await?.0), false)),
        }
    }

    /// Accepts connections until the server drains.
    pub async fn serve(self, server: Arc<Server>, mut draining: watch::Receiver<bool>) {
        loop {
            let Ok(place) = Arc::clone(&server.connections).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = drains(&mut draining) => return,
            };
            match accepted {
                Ok((stream, is_tcp)) => {
                    let connection = connection(stream, is_tcp, Arc::clone(&server), draining.clone(), place);
                    tokio::spawn(connection);
                }
                // No more files, for example: others must end first.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Waits until the server drains.
async fn drains(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

async fn connection(
    stream: Box<dyn Stream>,
    is_tcp: bool,
    server: Arc<Server>,
    mut draining: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    server.metrics.connections.add(1);
    let answering = Arc::clone(&server);
    let answer = service_fn(move |request: Request<Incoming>| {
        let server = Arc::clone(&answering);
        async move { Ok::<Response<Body>, io::Error>(server.answer(request, is_tcp).await) }
    });
    let stream = TokioIo::new(Timed { stream, write: None });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(stream, answer));
    // What is wrong with a connection is its client's matter.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = drains(&mut draining) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    server.metrics.connections.set(server.metrics.connections.get().saturating_sub(1));
}

/// Waits until every connection has ended, for a time at most; whether they have.
pub async fn ended(server: &Server, limit: Duration) -> bool {
    let all = server.connections.acquire_many(server.connection_limit);
    timeout(limit, all).await.is_ok()
}

/// A stream whose reader must take bytes.
struct Timed {
    stream: Box<dyn Stream>,
    /// Since when a write waits.
    write: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    fn watch<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write = None;
            return poll;
        }
        let write =
            self.write.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIME)));
        match write.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
