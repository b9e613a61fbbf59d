//! `serve`: the answers are those of `run`, whatever is asked beside them, and a wrong request gets one clear line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::{cinderblock, program, skipped_under_emulation};
use cinderblock::negative_log_likelihood;
use cinderblock_tools::unstable::npy;
use serde_json::{Value as Json, json};

/// A server on a free port, killed at the end of its test.
struct Server {
    child: Child,
    /// Its address and port.
    address: String,
}

impl Server {
    fn start(more: &[&str]) -> Server {
        let mut command = program();
        command.args(["serve", "--port", "0", "--memory", "2GB"]).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").to_string();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
        Server { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the end of the connection.
    fn raw(&self, bytes: &[u8]) -> (u16, String, String) {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        parse(&answer)
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    fn post(&self, path: &str, body: &Json) -> (u16, Json) {
        let (status, _, text) = self.request("POST", path, "", body.to_string().as_bytes());
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    fn get(&self, path: &str) -> (u16, String, String) {
        self.request("GET", path, "", b"")
    }

    /// Starts a stream, and gives its first event.
    fn stream(&self, body: &Json) -> BufReader<TcpStream> {
        let (mut stream, body) = (self.connect(), body.to_string());
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "no event");
        }
        reader
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").2;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cinderblock_{name} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
    }

    /// Waits until a metric has a value.
    fn wait_for(&self, name: &str, value: u64) {
        let started = Instant::now();
        while self.metric(name) != value {
            assert!(started.elapsed() < Duration::from_secs(30), "{name}: {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: a plain call with the number of a child that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// The exit code, within a time.
    fn wait(&mut self, limit: Duration) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server is still there");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status, head and body of an answer; chunks are put together.
fn parse(answer: &[u8]) -> (u16, String, String) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return (status, head.to_string(), body.to_string());
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole += &more[..size];
        rest = &more[size + 2..];
    }
    (status, head.to_string(), whole)
}

/// The events of a stream.
fn events(body: &str) -> Vec<Json> {
    let lines = body.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter(|line| *line != "[DONE]").map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(prompt: &str, seed: u64, most: usize) -> Json {
    let (seed, most) = (seed.to_string(), most.to_string());
    cinderblock(&["run", "-p", prompt, "--seed", &seed, "-n", &most, "--json"]).json()
}

const PROMPTS: [&str; 3] =
    ["The old house", "It was late in the autumn when the ship came into the harbour.", "He"];

#[test]
fn answers_equal_those_of_run() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let server = Server::start(&[]);
    // All at once, some of them as streams.
    std::thread::scope(|scope| {
        for (index, prompt) in PROMPTS.iter().enumerate() {
            for streams in [false, true] {
                let server = &server;
                scope.spawn(move || {
                    let seed = index as u64 + 1;
                    let body =
                        json!({"prompt": prompt, "seed": seed, "max_tokens": 30, "n": 2, "stream": streams});
                    let (status, _, text) =
                        server.request("POST", "/v1/completions", "", body.to_string().as_bytes());
                    assert_eq!(status, 200, "{text}");
                    let mut written = [String::new(), String::new()];
                    let mut tokens = [Vec::new(), Vec::new()];
                    let answers =
                        if streams { events(&text) } else { vec![serde_json::from_str(&text).unwrap()] };
                    for choice in answers.iter().flat_map(|answer| answer["choices"].as_array().unwrap()) {
                        let answer = choice["index"].as_u64().unwrap() as usize;
                        written[answer] += choice["text"].as_str().unwrap();
                        tokens[answer].extend(choice["tokens"].as_array().into_iter().flatten().cloned());
                    }
                    for answer in 0..2 {
                        let alone = run(prompt, seed + answer as u64, 30);
                        assert_eq!(alone["text"], written[answer]);
                        assert_eq!(alone["tokens"], Json::from(tokens[answer].clone()));
                    }
                });
            }
        }
    });
    // A prompt of ids, and one that is repeated before the answer.
    let ids: Vec<Json> =
        server.post("/tokenize", &json!({"text": PROMPTS[1]})).1["tokens"].as_array().unwrap().clone();
    let body = json!({"prompt": [ids, ids], "seed": 5, "max_tokens": 8, "echo": true, "stop": ["zzz"]});
    let answer = server.post("/v1/completions", &body).1;
    let expected = format!("{}{}", PROMPTS[1], run(PROMPTS[1], 5, 8)["text"].as_str().unwrap());
    assert!(
        answer["choices"][0]["text"] == *expected && answer["choices"][1]["text"] == *expected,
        "{answer}"
    );
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let long = PROMPTS[1].repeat(5);
    for _ in 0..2 {
        let body = json!({"prompt": long, "seed": 2, "max_tokens": 12});
        assert_eq!(server.post("/v1/completions", &body).1["choices"][0]["text"], run(&long, 2, 12)["text"]);
    }
    assert!(server.metric("prefix_cache_hits_total") > 0);
}

/// Log-probabilities of the tokens of a text after its first block.
fn logprobs_of(ids: &[Json]) -> Vec<f64> {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("logits.npy");
    let list = ids.iter().map(Json::to_string).collect::<Vec<_>>().join(",");
    cinderblock(&["logits", "--tokens", &list, "-o", file.to_str().unwrap()]).success();
    let bytes = std::fs::read(file).unwrap();
    let (rows, columns) = npy(&bytes).unwrap().unwrap();
    let values = &bytes[bytes.len() - 4 * rows * columns..];
    let logits: Vec<f32> =
        values.as_chunks().0.iter().map(|value: &[u8; 4]| f32::from_le_bytes(*value)).collect();
    let rows = logits.chunks(columns).zip(&ids[ids.len() - rows..]);
    rows.map(|(row, id)| -negative_log_likelihood(row, id.as_u64().unwrap() as u32)).collect()
}

#[test]
fn a_repeated_prompt_has_its_log_probabilities() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let server = Server::start(&[]);
    let ids =
        server.post("/tokenize", &json!({"text": PROMPTS[1]})).1["tokens"].as_array().unwrap()[..12].to_vec();
    let body = |prompt: &[Json], echo: bool, stream: bool| json!({"prompt": prompt, "seed": 3, "max_tokens": 6, "n": 2, "echo": echo, "logprobs": 2, "stream": stream});
    let plain = server.post("/v1/completions", &body(&ids, false, false)).1;
    let answer = server.post("/v1/completions", &body(&ids, true, false)).1;
    let expected = logprobs_of(&ids);
    let lists = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    for (choice, alone) in
        answer["choices"].as_array().unwrap().iter().zip(plain["choices"].as_array().unwrap())
    {
        let shown = &choice["logprobs"];
        for name in lists {
            assert_eq!(shown[name].as_array().unwrap().len(), 18, "{name}");
        }
        for at in 0..4 {
            assert!(shown["token_logprobs"][at].is_null() && shown["top_logprobs"][at].is_null(), "{shown}");
        }
        for (at, expected) in (4..).zip(&expected) {
            let found = shown["token_logprobs"][at].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-4, "{at}: {found}, {expected}");
            let top = shown["top_logprobs"][at].as_object().unwrap();
            assert_eq!(top.len(), 2);
        }
        // What follows is the same as without.
        assert_eq!(choice["tokens"], alone["tokens"]);
        let text = choice["text"].as_str().unwrap();
        assert!(text.ends_with(alone["text"].as_str().unwrap()));
        let echoed = text.chars().count() - alone["text"].as_str().unwrap().chars().count();
        for (at, alone_at) in (12..18).zip(0..) {
            for name in &lists[..3] {
                assert_eq!(shown[name][at], alone["logprobs"][name][alone_at]);
            }
            let offset = alone["logprobs"]["text_offset"][alone_at].as_u64().unwrap();
            assert_eq!(shown["text_offset"][at], offset + echoed as u64);
        }
    }
    // As a stream, the prompt comes first.
    let (_, _, text) =
        server.request("POST", "/v1/completions", "", body(&ids, true, true).to_string().as_bytes());
    let first = &events(&text)[0]["choices"][0];
    for name in lists {
        let whole = answer["choices"][0]["logprobs"][name].as_array().unwrap();
        assert_eq!(first["logprobs"][name], Json::from(whole[..12].to_vec()));
    }
    // A prompt of one block predicts nothing of itself.
    for (length, unscored) in [(1, 1), (3, 3), (4, 4), (5, 4), (7, 4)] {
        let mut body = body(&ids[..length], true, false);
        body["max_tokens"] = 0.into();
        let shown =
            server.post("/v1/completions", &body).1["choices"][1]["logprobs"]["token_logprobs"].clone();
        let shown = shown.as_array().unwrap();
        assert_eq!(shown.len(), length);
        assert!(shown.iter().enumerate().all(|(at, shown)| shown.is_null() == (at < unscored)), "{shown:?}");
    }
}

#[test]
fn the_other_paths_answer() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let server = Server::start(&["--name", "demo"]);
    let (status, chat) = server.post(
        "/v1/chat/completions",
        &json!({"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "logprobs": true, "top_logprobs": 2, "tools": [{"type": "function"}], "tool_choice": "auto"}),
    );
    assert_eq!((status, &chat["object"]), (200, &json!("chat.completion")), "{chat}");
    assert!(chat["choices"][0]["message"]["content"].is_string());
    assert_eq!(chat["choices"][0]["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    let logprobs = json!({"prompt": "The", "max_tokens": 3, "logprobs": 3, "temperature": 0});
    let answer = server.post("/v1/completions", &logprobs).1;
    assert_eq!(answer["choices"][0]["logprobs"]["top_logprobs"][2].as_object().unwrap().len(), 3, "{answer}");

    let scores =
        server.post("/score", &json!({"prompt": "The old ", "continuations": ["man", "house was"]})).1;
    let folder = tempfile::TempDir::new().unwrap();
    let line = json!({"id": 1, "prompt": "The old ", "continuations": ["man", "house was"]});
    std::fs::write(folder.path().join("in"), line.to_string()).unwrap();
    let file = folder.path().join("in");
    let batch = cinderblock(&["batch", "--score", "-i", file.to_str().unwrap()]).success();
    assert_eq!(serde_json::from_str::<Json>(&batch).unwrap()["scores"], scores["scores"]);

    let tokens = server.post("/tokenize", &json!({"text": "The old house"})).1["tokens"].clone();
    assert_eq!(server.post("/detokenize", &json!({"tokens": tokens})).1["text"], "The old house");
    for (path, text) in [
        ("/health", "ok"),
        ("/ready", "ok"),
        ("/v1/models", "\"demo\""),
        ("/v1/models/demo", "block_length"),
        ("/metrics", "cinderblock_first_token_seconds_count"),
        ("/openapi.json", "repetition_penalty"),
        ("/page.js", "fetch"),
        ("/page.css", "color-scheme"),
    ] {
        let (status, _, body) = server.get(path);
        assert!(status == 200 && body.contains(text), "{path}: {status} {body}");
    }
    let (_, head, page) = server.get("/");
    assert!(head.contains("default-src 'none'") && page.contains("<title>cinderblock</title>"));
    assert!(!page.contains("http://") && !page.contains("https://"), "a foreign host in the page");
    let (status, _, body) = server.request("HEAD", "/v1/models", "", b"");
    assert_eq!((status, body.as_str()), (200, ""));
}

#[test]
fn a_wrong_request_gets_one_line() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let server = Server::start(&["--max-tokens", "100"]);
    let long = "x".repeat(9 << 20);
    let deep = format!("{{\"prompt\":{}", "[".repeat(100_000));
    let cases: &[(&str, &str, &str, u16, &str)] = &[
        ("POST", "/v1/completions", "{", 400, "body: EOF"),
        ("POST", "/v1/completions", "[]", 400, "expected a JSON object"),
        ("POST", "/v1/completions", &deep, 400, "recursion limit"),
        ("POST", "/v1/completions", r#"{"prompt":"a","temperature":NaN}"#, 400, "body: "),
        ("POST", "/v1/completions", r#"{"prompt":"a","temperature":1e999}"#, 400, "body: "),
        ("POST", "/v1/completions", r#"{"prompt":"a","max_token":1}"#, 400, "did you mean"),
        ("POST", "/v1/completions", r#"{"prompt":"a","n":-1}"#, 400, "\"n\": found -1"),
        ("POST", "/v1/completions", r#"{"prompt":"a","n":120}"#, 400, "expected at most 96"),
        ("POST", "/v1/completions", r#"{"prompt":"a","max_tokens":101}"#, 400, "expected at most 100"),
        ("POST", "/v1/completions", r#"{"prompt":"a","suffix":"b"}"#, 400, "not supported"),
        ("POST", "/v1/completions", r#"{"prompt":""}"#, 400, "found 0 tokens"),
        ("POST", "/v1/completions", r#"{"prompt":[]}"#, 400, "found 0 tokens"),
        ("POST", "/v1/completions", r#"{"prompt":[99999999]}"#, 400, "99999999"),
        ("POST", "/v1/completions", r#"{"prompt":[-1]}"#, 400, "\"prompt\": found [-1]"),
        ("POST", "/v1/completions", r#"{"prompt":"a","logit_bias":{"x":1}}"#, 400, "\"logit_bias\""),
        ("POST", "/v1/completions", r#"{"prompt":"a","model":"gpt"}"#, 404, "\"model\": found"),
        ("POST", "/v1/completions", &long, 413, "body: found more than"),
        (
            "POST",
            "/v1/chat/completions",
            r#"{"messages":[{"role":"robot","content":"x"}]}"#,
            400,
            "\"messages\"",
        ),
        ("POST", "/v1/chat/completions", r#"{"messages":[],"tools":[1]}"#, 400, "\"tools\": found [1]"),
        ("POST", "/v1/chat/completions", r#"{"messages":[],"tool_choice":"required"}"#, 400, "not supported"),
        ("POST", "/score", r#"{"continuations":["a"]}"#, 400, "found none"),
        ("POST", "/score", r#"{"prompt":"a","continuations":[""]}"#, 400, "continuation"),
        ("POST", "/detokenize", r#"{"tokens":[4294967295]}"#, 400, "4294967295"),
        ("GET", "/v1/completions", "", 405, "method: found GET"),
        ("DELETE", "/v1/models", "", 405, "method: found DELETE"),
        ("OPTIONS", "/v1/completions", "", 405, "method: found OPTIONS"),
        ("GET", "/nothing/../../etc/passwd", "", 404, "path: found"),
        ("GET", "/v1/models/other", "", 404, "model: found"),
        ("GET", "/v1/models/%ff", "", 400, "model: found"),
        ("GET", "/v1/models/org/model", "", 404, "model: found \"org/model\""),
    ];
    for (method, path, body, expected, text) in cases {
        let (status, _, answer) = server.request(method, path, "", body.as_bytes());
        let json: Json = serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{path} {body:.80}: {error}: {answer}"));
        let message = json["error"]["message"].as_str().unwrap_or_default();
        assert!(status == *expected && message.contains(text), "{path} {body:.80}: {status} {answer}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    // Before anything is read or kept of it.
    let ids = vec![7; 2000];
    for body in [
        json!({"prompt": ids, "echo": true, "logprobs": 1, "n": 90}),
        json!({"prompt": vec![&ids[..1000]; 70], "echo": true, "logprobs": 1}),
    ] {
        let (status, answer) = server.post("/v1/completions", &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains("expected"), "{answer}");
    }
    let post = |headers: &str, body: &[u8]| {
        let head = format!("POST /tokenize HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        server.raw(&[head.as_bytes(), body].concat()).0
    };
    assert_eq!(post("Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n", b"{}"), 415);
    assert_eq!(
        post("Host: evil.example\r\nContent-Type: application/json\r\nContent-Length: 2\r\n", b"{}"),
        403
    );
    let two = "Host: localhost\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n";
    assert_eq!(post(two, b"{}"), 400);
    let long = format!("/{}", "x".repeat(20_000));
    assert!(server.get(&long).2.len() < 300);
    let (status, answer) = server.post("/v1/completions", &json!({"prompt": "a", "model": long}));
    assert!(status == 404 && answer.to_string().len() < 300);
    assert_eq!(post("Host: a\r\nHost: b\r\nContent-Length: x\r\n", b""), 400);
    assert_eq!(
        post(
            "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n",
            b"{\"text\":\"\xff\"}"
        ),
        400
    );
    let many = "X-Many: 1\r\n".repeat(1000);
    assert!([400, 431].contains(&post(&many, b"")));
    let origin = "Origin: https://evil.example\r\n";
    assert_eq!(server.request("POST", "/tokenize", origin, br#"{"text":"a"}"#).0, 403);
    // Requests one after the other, without waiting for answers.
    let one = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = server.connect();
    stream.write_all(format!("{one}{one}{last}").as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("200 OK").count(), 3, "{answers}");
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).0, 200);
}

#[test]
fn a_client_that_leaves_is_cancelled_and_a_full_queue_says_so() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let server = Server::start(&["--batch", "1", "--queue", "1", "--max-tokens", "100000"]);
    let endless = json!({"prompt": "The", "max_tokens": 100_000, "ignore_end": true, "stream": true});
    let first = server.stream(&endless);
    let (status, _, _) = server.get("/ready");
    assert_eq!(status, 200);
    let second = server.connect();
    let body = endless.to_string();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    write!(&second, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    server.wait_for("sequences_waiting", 1);
    let (status, head, text) = server.request("POST", "/v1/completions", "", body.as_bytes());
    assert!(status == 429 && head.to_lowercase().contains("retry-after: 1"), "{head}");
    assert!(text.contains("rate_limit_error"), "{text}");
    assert_eq!(server.get("/ready").0, 503);
    drop((first, second));
    server.wait_for("cancelled_total", 2);
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "The", "max_tokens": 3})).0, 200);
}

#[test]
fn a_client_that_reads_too_slowly_is_cut_and_holds_up_nobody() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let server = Server::start(&["--batch", "2", "--max-tokens", "200000"]);
    let endless = json!({"prompt": "The", "max_tokens": 200_000, "ignore_end": true, "stream": true});
    let reader = server.stream(&endless);
    // The buffers of the two sockets hold some megabytes, in which other answers come and go.
    let started = Instant::now();
    while server.metric("slow_readers_total") == 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "the stream was never cut");
        let (status, answer) = server.post("/v1/completions", &json!({"prompt": "The", "max_tokens": 16}));
        assert_eq!(status, 200, "{answer}");
    }
    server.wait_for("sequences_running", 0);
    // What was sent before the cut is whole events, and the last says why there are no more.
    let mut events = String::new();
    reader.take(1 << 28).read_to_string(&mut events).unwrap();
    let last = events.lines().rfind(|line| line.starts_with("data: ")).unwrap();
    assert!(last.contains("read too slowly"), "{last}");
}

#[test]
fn sigterm_lets_answers_end_and_cuts_those_that_take_longer() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let mut server = Server::start(&["--max-tokens", "1000000", "--grace", "20"]);
    let mut finite =
        server.stream(&json!({"prompt": "The", "max_tokens": 400, "ignore_end": true, "stream": true}));
    server.signal(libc::SIGTERM);
    let mut rest = String::new();
    finite.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"), "{rest}");
    drop(finite);
    assert_eq!(server.wait(Duration::from_secs(20)), Some(0));

    let mut server = Server::start(&["--max-tokens", "1000000", "--grace", "1"]);
    let endless = json!({"prompt": "The", "max_tokens": 1_000_000, "ignore_end": true, "stream": true});
    let mut stream = server.stream(&endless);
    server.signal(libc::SIGTERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("the server is shutting down") && rest.ends_with("0\r\n\r\n"), "{:.300}", rest);
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn keys_and_sockets() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let (keys, socket) = (folder.path().join("keys"), folder.path().join("socket"));
    let refused = cinderblock(&["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--api-key-file"), "{refused:?}");
    std::fs::write(&keys, "secret\n").unwrap();
    let server =
        Server::start(&["--api-key-file", keys.to_str().unwrap(), "--allow-origin", "https://a.example"]);
    let models = |headers: &str| server.request("GET", "/v1/models", headers, b"");
    assert_eq!(models("").0, 401);
    assert_eq!(models("Authorization: Bearer secrets\r\n").0, 401);
    let (status, head, _) = models("Authorization: Bearer secret\r\nOrigin: https://a.example\r\n");
    assert!(status == 200 && head.contains("access-control-allow-origin: https://a.example"), "{head}");
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n";
    assert_eq!(server.request("OPTIONS", "/v1/completions", preflight, b"").0, 204);
    assert_eq!((server.get("/health").0, server.get("/").0), (200, 200));

    let start = || {
        let mut command = program();
        command.args(["serve", "--socket", socket.to_str().unwrap()]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("unix:"), "{line}");
        child
    };
    let ask = |path: &Path| {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("200 OK"), "{text}");
    };
    let over = cinderblock(&["serve", "--socket", keys.to_str().unwrap()]);
    let expected = "keys: socket: found a file of another type, expected a new name";
    assert!(over.code == Some(1) && over.stderr.contains(expected), "{over:?}");
    assert_eq!(std::fs::read(&keys).unwrap(), b"secret\n");
    // The second one replaces the socket that the first one left.
    for _ in 0..2 {
        let mut child = start();
        ask(&socket);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_hostile_constraint_is_refused_and_the_server_lives() {
    if skipped_under_emulation("a server's times are those of a real processor") {
        return;
    }
    let mut server = Server::start(&["--grace", "1"]);
    let chain = |letter: &str| {
        let rules: String = (0..4500).map(|i| format!("{letter}{i}: {letter}{}\n", i + 1)).collect();
        json!({"type": "grammar", "grammar": format!("start: {letter}0\n{rules}{letter}4500: \"a\"\n")})
    };
    let mut schemas = serde_json::Map::new();
    for i in 0..1000 {
        let next = format!("#/$defs/{}", i + 1);
        schemas.insert(i.to_string(), json!({"properties": {"a": {"$ref": next}}}));
    }
    schemas.insert("1000".into(), json!({"type": "null"}));
    let schema = json!({"$defs": schemas, "$ref": "#/$defs/0"});
    let optional = format!("{}{}", "a?".repeat(15_000), "a".repeat(15_000));
    let ambiguous = "start: e\ne: e e | /[a-z ]/ | /[a-z]+/ | / +/ | /[\\s\\S]/\n";
    let ask = |server: &Server, form: &Json| {
        let sampling = json!({"temperature": 1.5, "top_k": 0, "ignore_end": true, "seed": 1});
        let mut body = json!({"prompt": "The old house", "max_tokens": 300, "response_format": form});
        body.as_object_mut().unwrap().extend(sampling.as_object().unwrap().clone());
        server.post("/v1/completions", &body)
    };
    for (form, expected) in [
        (chain("r"), 200),
        (chain("T"), 200),
        (json!({"type": "json_schema", "json_schema": {"schema": schema}}), 400),
        (json!({"type": "regex", "regex": optional}), 400),
        (json!({"type": "regex", "regex": "ABC["}), 400),
        (json!({"type": "grammar", "grammar": "start: r\nr: r\n"}), 400),
        (json!({"type": "grammar", "grammar": ambiguous}), 400),
    ] {
        let (status, answer) = ask(&server, &form);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(status, expected, "{:.80}: {answer:.300}", form.to_string());
        assert!(message.lines().count() <= 1 && !message.contains("NoExtension"), "{message}");
        if form["regex"] == "ABC[" {
            assert!(message.contains("ABC[") && message.contains("unclosed"), "{message}");
        }
    }
    // Many at once are compiled one after the other, and every one is answered.
    let body = json!({"prompt": "a", "response_format": {"type": "regex", "regex": "(ab?){3}"}});
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| server.post("/v1/completions", &body).0);
        (0..20).map(|_| one()).collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses, vec![200; 20]);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait(Duration::from_secs(20)), Some(0));
}

#[test]
fn too_little_memory_for_any_text_is_refused_at_the_start() {
    let outcome = cinderblock(&["serve", "--port", "0", "--memory", "1"]);
    assert!(outcome.code != Some(0) && outcome.stderr.contains("memory: found"), "{}", outcome.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn an_inherited_socket_that_is_open_or_no_listener_is_refused() {
    use std::os::fd::OwnedFd;
    let start = |file: OwnedFd| {
        // The shell gives its own number as that of the process, which it then becomes.
        let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" serve 3<&0";
        let program = program();
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(program.get_program())
            .stdin(Stdio::from(file))
            .output()
            .unwrap();
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    assert!(start(open.into()).contains("expected --api-key-file"));
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(start(datagrams.into()).contains("no listening socket"));
    assert!(start(std::io::pipe().unwrap().0.into()).contains("no listening socket"));
}
