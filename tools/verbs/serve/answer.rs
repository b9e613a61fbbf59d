//! The answers of completions and chats, as one JSON object or as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use cinderblock::{End, Event, Step, Token, Tokenizer};
use hyper::body::Frame;
use serde_json::{Map, Value as Json, json};

use super::echo::Echo;
use super::engine::{Texts, Update};
use super::generation::{Interface, Logprobs, Plan};
use super::problem::{Problem, json_response};

/// What all answers of one request have in common.
pub struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub tokenizer: Option<Arc<Tokenizer>>,
}

/// One answer as far as it has come.
struct Choice {
    seed: u64,
    echo: Arc<Echo>,
    /// The place in its block of the next token.
    place: usize,
    text: String,
    tokens: Vec<Token>,
    /// Characters of the text before each token.
    offsets: Vec<usize>,
    /// Number of tokens.
    count: usize,
    end: Option<&'static str>,
    /// Whether white space at the start is left out: that of a chat.
    trims: bool,
}

/// The answers of a request.
pub struct Answer {
    head: Head,
    interface: Interface,
    logprobs: Logprobs,
    block: usize,
    prompt_tokens: usize,
    choices: Vec<Choice>,
}

/// OpenAI's name of an end; `None` if the server has ended the text.
fn reason(end: End) -> Option<&'static str> {
    match end {
        End::Length | End::Time => Some("length"),
        End::EndOfText | End::Stop => Some("stop"),
        End::Caller => None,
    }
}

/// Why an answer ends before its end.
pub fn cut() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the server is shutting down, expected a request to another one",
    )
}

fn slow() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the answer was read too slowly, expected its events to be read as they come",
    )
}

impl Answer {
    /// The answers of a plan, empty so far; `block` is the length of a block.
    pub fn new(head: Head, plan: &mut Plan, block: usize) -> Answer {
        let echo = std::mem::take(&mut plan.echo);
        let choices = plan.requests.iter().zip(echo).zip(&plan.places);
        let choices = choices.map(|((request, echo), place)| Choice {
            seed: request.sampler.seed,
            echo,
            place: *place,
            text: String::new(),
            tokens: Vec::new(),
            offsets: Vec::new(),
            count: 0,
            end: None,
            trims: plan.interface == Interface::Chat,
        });
        Answer {
            head,
            interface: plan.interface,
            logprobs: plan.logprobs,
            block,
            prompt_tokens: plan.prompt_tokens,
            choices: choices.collect(),
        }
    }

    /// Whether every answer has ended.
    fn is_whole(&self) -> bool {
        self.choices.iter().all(|choice| choice.end.is_some())
    }

    /// Takes a step of an answer, and gives the text that it adds.
    fn step(&mut self, index: usize, step: Step, keep: bool) -> String {
        let choice = &mut self.choices[index];
        let mut text = step.text;
        if choice.trims {
            text = text.trim_start().to_string();
            choice.trims = text.is_empty();
        }
        if let Some(token) = step.token {
            choice.count += 1;
            choice.place = (choice.place + 1) % self.block;
            if keep {
                choice.offsets.push(choice.text.chars().count());
                choice.tokens.push(token);
            }
        }
        if keep {
            choice.text += &text;
        }
        text
    }

    /// All answers as one object.
    ///
    /// # Errors
    /// If one has failed or the server ends.
    pub async fn collect(mut self, mut texts: Texts) -> Result<Response<Body>, Problem> {
        while !self.is_whole() {
            let Some(Update { index, event }) = texts.updates.recv().await else { return Err(slow()) };
            match event {
                Event::Step(step) => drop(self.step(index, step, true)),
                Event::Ended(end, _) => self.choices[index].end = Some(reason(end).ok_or_else(cut)?),
                Event::Failed(error) => return Err(error.into()),
            }
        }
        let choices: Vec<Json> = (0..self.choices.len()).map(|index| self.whole(index)).collect();
        let mut answer = self.envelope(false);
        answer["choices"] = choices.into();
        answer["usage"] = self.usage();
        Ok(json_response(StatusCode::OK, &answer))
    }

    fn envelope(&self, chunk: bool) -> Json {
        let object = match (self.interface, chunk) {
            (Interface::Completion, _) => "text_completion",
            (Interface::Chat, true) => "chat.completion.chunk",
            (Interface::Chat, false) => "chat.completion",
        };
        let Head { id, created, model, .. } = &self.head;
        json!({"id": id, "object": object, "created": created, "model": model, "choices": []})
    }

    fn usage(&self) -> Json {
        let generated: usize = self.choices.iter().map(|choice| choice.count).sum();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        })
    }

    /// An answer that has ended.
    fn whole(&self, index: usize) -> Json {
        let choice = &self.choices[index];
        let ids: Vec<u32> = choice.tokens.iter().map(|token| token.id).collect();
        let Echo { text: echo, tokens: repeated, offsets } = &*choice.echo;
        let repeated_chars = echo.chars().count();
        let tokens: Vec<&Token> = repeated.iter().chain(&choice.tokens).collect();
        let own_offsets = choice.offsets.iter().map(|offset| repeated_chars + offset);
        let offsets: Vec<usize> = offsets.iter().copied().chain(own_offsets).collect();
        let logprobs = self.logprobs_of(&tokens, &offsets);
        let mut answer = json!({
            "index": index,
            "finish_reason": choice.end,
            "logprobs": logprobs,
            "seed": choice.seed,
            "tokens": ids,
        });
        match self.interface {
            Interface::Completion => answer["text"] = format!("{echo}{}", choice.text).into(),
            Interface::Chat => {
                answer["message"] = json!({"role": "assistant", "content": choice.text, "refusal": null});
            }
        }
        answer
    }

    /// A token's text, or U+FFFD for bytes that are no character of their own.
    fn piece(&self, id: u32) -> String {
        let text = self.head.tokenizer.as_ref().and_then(|tokenizer| tokenizer.decode(&[id]).ok());
        text.unwrap_or_else(|| id.to_string())
    }

    fn logprobs_of(&self, tokens: &[&Token], offsets: &[usize]) -> Json {
        if self.logprobs == Logprobs::None {
            return Json::Null;
        }
        // A token that is certainly not chosen has no finite logarithm, and JSON no infinity.
        let number = |logprob: f32| f64::from(logprob.max(-9999.0));
        let own = |token: &Token| token.logprob.map(number);
        match self.interface {
            Interface::Completion => {
                let top = |token: &Token| -> Json {
                    if token.logprob.is_none() {
                        return Json::Null;
                    }
                    let pairs =
                        token.top.iter().map(|(id, logprob)| (self.piece(*id), json!(number(*logprob))));
                    Json::Object(pairs.rev().collect::<Map<_, _>>())
                };
                json!({
                    "tokens": tokens.iter().map(|token| self.piece(token.id)).collect::<Vec<_>>(),
                    "token_logprobs": tokens.iter().copied().map(own).collect::<Vec<_>>(),
                    "top_logprobs": tokens.iter().copied().map(top).collect::<Vec<_>>(),
                    "text_offset": offsets,
                })
            }
            Interface::Chat => {
                let entry = |id: u32, logprob: Option<f64>| {
                    let piece = self.piece(id);
                    let bytes = if piece.contains('\u{fffd}') { Json::Null } else { json!(piece.as_bytes()) };
                    json!({"token": piece, "logprob": logprob, "bytes": bytes})
                };
                let one = |token: &Token| {
                    let mut json = entry(token.id, own(token));
                    let top = token.top.iter().map(|(id, logprob)| entry(*id, Some(number(*logprob))));
                    json["top_logprobs"] = top.collect();
                    json
                };
                json!({"content": tokens.iter().copied().map(one).collect::<Vec<_>>(), "refusal": null})
            }
        }
    }

    /// An event about one answer: text that it adds, the token of that, or its end.
    fn chunk(&self, index: usize, text: &str, token: Option<(&Token, usize)>, end: Option<&str>) -> Json {
        let choice = &self.choices[index];
        let mut change = json!({"index": index, "finish_reason": end, "logprobs": null});
        if let Some((token, place)) = token {
            change["tokens"] = json!([token.id]);
            change["place"] = place.into();
            change["logprobs"] = self.logprobs_of(&[token], &[0]);
        }
        if end.is_some() {
            change["seed"] = choice.seed.into();
        }
        match self.interface {
            Interface::Completion => change["text"] = text.into(),
            Interface::Chat if text.is_empty() => change["delta"] = json!({}),
            Interface::Chat => change["delta"] = json!({"content": text}),
        }
        let mut answer = self.envelope(true);
        answer["choices"] = json!([change]);
        answer
    }

    /// The answers as server-sent events.
    pub fn stream(self, texts: Texts, include_usage: bool) -> Response<Body> {
        let mut events = Events { answer: self, texts, queue: VecDeque::new(), include_usage, ended: false };
        events.begin();
        let mut response = Response::new(Body::new(events));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // nginx would collect events otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// The body of a stream. Dropped when the client is gone, which ends its texts.
struct Events {
    answer: Answer,
    texts: Texts,
    /// Events that wait to be sent.
    queue: VecDeque<Bytes>,
    include_usage: bool,
    ended: bool,
}

fn event(json: &Json) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

impl Events {
    /// What comes before the first token.
    fn begin(&mut self) {
        for index in 0..self.answer.choices.len() {
            let echo = std::mem::take(&mut self.answer.choices[index].echo);
            let mut chunk = self.answer.chunk(index, &echo.text, None, None);
            if self.answer.interface == Interface::Chat {
                chunk["choices"][0]["delta"] = json!({"role": "assistant", "content": ""});
            } else if echo.text.is_empty() && echo.tokens.is_empty() {
                continue;
            } else if !echo.tokens.is_empty() {
                chunk["choices"][0]["logprobs"] =
                    self.answer.logprobs_of(&echo.tokens.iter().collect::<Vec<_>>(), &echo.offsets);
            }
            self.queue.push_back(event(&chunk));
        }
    }

    fn take(&mut self, Update { index, event: update }: Update) {
        match update {
            Event::Step(step) => {
                let place = self.answer.choices[index].place;
                let (token, guessed) = (step.token.clone(), step.guessed);
                let text = self.answer.step(index, step, false);
                let token = token.as_ref().map(|token| (token, place));
                let mut chunk = self.answer.chunk(index, &text, token, None);
                if guessed {
                    chunk["choices"][0]["guessed"] = true.into();
                }
                self.queue.push_back(event(&chunk));
            }
            Event::Ended(end, _) => match reason(end) {
                None => self.fail(&cut()),
                reason => {
                    self.answer.choices[index].end = reason;
                    let chunk = self.answer.chunk(index, "", None, reason);
                    self.queue.push_back(event(&chunk));
                    if self.answer.is_whole() {
                        self.finish();
                    }
                }
            },
            Event::Failed(error) => self.fail(&error.into()),
        }
    }

    fn finish(&mut self) {
        if self.include_usage {
            let mut chunk = self.answer.envelope(true);
            chunk["usage"] = self.answer.usage();
            self.queue.push_back(event(&chunk));
        }
        self.queue.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.ended = true;
    }

    fn fail(&mut self, problem: &Problem) {
        if !self.ended {
            self.queue.push_back(event(&problem.json()));
            self.ended = true;
        }
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(bytes) = self.queue.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.texts.updates.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.fail(&slow()),
                Poll::Ready(Some(update)) => self.take(update),
            }
        }
    }
}
