//! A `tokenizer.json`, a text and ids, with bytes 0xff between them: loaded, encoded and decoded.

use cinderblock::unstable::generation::TextStream;
use cinderblock::{Interrupt, Tokenizer};

use super::check;

const MOST_TEXT: usize = 256;
const MOST_TOKENS: usize = 64;

pub fn run(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0xff);
    let json = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let ids = parts.next().unwrap_or_default();
    let Some(mut tokenizer) = check(Tokenizer::from_json(&json)) else { return };
    let text: String = text.chars().take(MOST_TEXT).collect();
    let tokens = check(tokenizer.encode(&text));
    let interrupt = Interrupt::default();
    let same = check(tokenizer.encode_until(&text, &interrupt));
    // With dropout, merges are left out at random.
    if !json.contains("dropout") {
        assert_eq!(same, tokens, "an interruptible call gives other tokens");
    }
    let mut ids: Vec<u32> = ids.iter().map(|id| u32::from(*id)).collect();
    ids.extend(tokens.unwrap_or_default());
    ids.truncate(MOST_TOKENS);
    for show in [false, true] {
        tokenizer.show_special(show);
        let whole = check(tokenizer.decode(&ids));
        let mut stream = TextStream::new(&tokenizer);
        let pieces: Option<Vec<String>> = ids.iter().map(|id| check(stream.push(*id))).collect();
        let pieces = pieces.and_then(|pieces| Some(pieces.concat() + &check(stream.finish())?));
        assert_eq!(pieces, whole, "text in pieces differs");
    }
    tokenizer.parse_special(false);
    check(tokenizer.encode(&text));
    let _ = (tokenizer.vocabulary(), tokenizer.token_id("a"), tokenizer.token_text(3));
}
