//! Stop strings.

/// Cuts a stream of text at the first of some stop strings, which may begin in one piece and end in another.
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What a [`StopMatcher`] lets through.
#[derive(Debug, PartialEq)]
pub struct Passed {
    /// Text that is not, and will not become, part of a stop string.
    pub text: String,
    /// Whether a stop string was found; the text ends before it.
    pub stopped: bool,
}

impl StopMatcher {
    /// A matcher; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopMatcher { stops, held: String::new() }
    }

    /// Adds a piece of text.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        // The one that is complete first, so that it does not matter how the text is cut into pieces.
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        if let Some((_, at)) = found.min() {
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        // Hold back the longest end that begins a stop string.
        let begins = |at: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        let keep =
            self.held.char_indices().map(|(at, _)| at).find(|&at| begins(at)).unwrap_or(self.held.len());
        let text = self.held[..keep].to_string();
        self.held.drain(..keep);
        Passed { text, stopped: false }
    }

    /// Returns what was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stops_are_found_across_pieces() {
        let mut matcher = StopMatcher::new(&["END".into(), "\n\n".into(), String::new()]);
        assert_eq!(matcher.push("one E"), Passed { text: "one ".into(), stopped: false });
        assert_eq!(matcher.push("N"), Passed { text: String::new(), stopped: false });
        assert_eq!(matcher.push("O\n"), Passed { text: "ENO".into(), stopped: false });
        assert_eq!(matcher.push("\nrest"), Passed { text: String::new(), stopped: true });
        let mut matcher = StopMatcher::new(&["ab".into()]);
        assert_eq!(matcher.push("xa"), Passed { text: "x".into(), stopped: false });
        assert_eq!(matcher.finish(), "a");
    }

    fn matched(pieces: &[&str], stops: &[String]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops);
        let mut text = String::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            text += &passed.text;
            if passed.stopped {
                return (text, true);
            }
        }
        (text + &matcher.finish(), false)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_text_stops_at_the_same_place_however_it_is_cut(
            pieces in prop::collection::vec("[abé]{0,4}", 0..8),
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let (text, stopped) = matched(&pieces, &stops);
            prop_assert_eq!(matched(&[&whole], &stops), (text.clone(), stopped));
            // The text before the first stop string to be complete.
            let ends = stops.iter().filter(|stop| !stop.is_empty());
            let first = ends.filter_map(|stop| whole.find(&**stop).map(|at| (at + stop.len(), at))).min();
            prop_assert_eq!(stopped, first.is_some());
            prop_assert_eq!(&*text, first.map_or(&*whole, |(_, at)| &whole[..at]));
        }
    }
}
