//! The ring is attention under a sliding window with sinks, however the text came in and whatever was taken back.

use std::sync::LazyLock;

use crate::common::reference::Reference;
use crate::common::{Golden, case, quantize, read_npy, root};
use cinderblock::unstable::kernels::Kernels;
use cinderblock::{Alignment, CacheType, Model, Runtime, Session, SessionOptions, Snapshot};
use proptest::prelude::*;

/// Those of `windows/generate.py`.
const WINDOWED: [&str; 6] = ["main", "megabyte", "uptrain", "block8", "vanilla", "neox_sequential"];
const WINDOWS: [(usize, usize); 5] = [(1, 0), (3, 0), (3, 2), (4, 5), (17, 4)];
const COLUMNS: usize = 8;

fn options(window: usize, sinks: usize) -> SessionOptions {
    SessionOptions { cache_blocks: Some(sinks + window), sink_blocks: sinks, ..Default::default() }
}

fn scalar() -> &'static Kernels {
    Kernels::all().find(|kernels| kernels.isa().name() == "scalar").expect("scalar kernels")
}

fn f32_model(name: &str) -> Model {
    Model::open(quantize(&case(name), "f32").1).expect("the file is mapped")
}

fn expected(name: &str, window: usize, sinks: usize) -> Vec<f32> {
    let file = format!("tests/windows/{name}-w{window}-s{sinks}.npy");
    read_npy(&root().join(file)).1
}

/// The largest distance of a row of logits from what is expected of it.
fn distance(row: usize, logits: &[f32], expected: &[f32]) -> f32 {
    let expected = &expected[row * COLUMNS..][..COLUMNS];
    let found = (0..COLUMNS).map(|column| logits[(7 * row + 33 * column) % logits.len()]);
    found.zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

/// At every position, long past the capacity too: in one pass, and token by token.
#[test]
fn a_window_with_sinks_reproduces_the_reference() {
    for name in WINDOWED {
        let tokens = Golden::read(name).tokens.repeat(2);
        let runtime = Runtime::new(f32_model(name).with_kernels(scalar()), 2).unwrap();
        let block = runtime.model().config().block_length;
        for (window, sinks) in WINDOWS {
            let expected = expected(name, window, sinks);
            assert_eq!(expected.len(), (tokens.len() - block) * COLUMNS);
            let mut worst = [0f32; 2];
            let (mut scorer, mut row) = (runtime.scorer(&options(window, sinks)).unwrap(), 0);
            scorer
                .score(&tokens, |_, logits| {
                    worst[0] = worst[0].max(distance(row, logits, &expected));
                    row += 1;
                    Ok(())
                })
                .unwrap();
            let mut session = runtime.session(&options(window, sinks)).unwrap();
            session.append(&tokens[..block]).unwrap();
            for (row, token) in tokens[block..].iter().enumerate() {
                worst[1] = worst[1].max(distance(row, session.logits().unwrap(), &expected));
                session.append(&[*token]).unwrap();
            }
            assert!(worst[0] < 1e-3 && worst[1] < 1e-3, "{name}, window {window}, {sinks} sinks: {worst:?}");
        }
    }
}

/// What can happen to a session.
#[derive(Clone, Debug)]
enum Event {
    Append(Vec<u32>),
    /// To one of the blocks that it can go back to.
    Rewind(prop::sample::Index),
    /// Saved and loaded.
    Restart,
    /// Asked for logits.
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::collection::vec(0u32..260, 1..40).prop_map(Event::Append),
        3 => prop::collection::vec(0u32..260, 1..5).prop_map(Event::Append),
        2 => any::<prop::sample::Index>().prop_map(Event::Rewind),
        1 => Just(Event::Restart),
        3 => Just(Event::Look),
    ]
}

/// A session of some model beside the text, padding included, that it should have.
struct Pair<'m> {
    runtime: &'m Runtime,
    session: Session,
    text: Vec<u32>,
}

impl Pair<'_> {
    fn apply(&mut self, event: &Event) {
        let block = self.runtime.model().config().block_length;
        match event {
            Event::Append(tokens) => {
                if self.text.is_empty() && self.session.options().alignment == Some(Alignment::Left) {
                    self.text.resize(tokens.len().next_multiple_of(block) - tokens.len(), 0);
                }
                self.text.extend(tokens);
                self.session.append(tokens).unwrap();
            }
            Event::Rewind(index) => {
                let possible: Vec<u64> =
                    (0..=self.session.blocks()).filter(|&blocks| self.session.can_rewind(blocks)).collect();
                let blocks = *index.get(&possible);
                self.session.rewind(blocks).unwrap();
                self.text.truncate(blocks as usize * block);
            }
            Event::Restart => {
                let saved = Snapshot::save(&self.session, None).unwrap();
                let loaded = Snapshot::from_bytes(self.runtime.model(), saved.bytes()).unwrap();
                self.session = loaded.restore(self.runtime).unwrap().0;
            }
            Event::Look => {}
        }
    }

    /// The logits; those of a text that is shorter than a block come after it was filled up.
    fn logits(&mut self) -> Vec<f32> {
        let block = self.runtime.model().config().block_length;
        if self.text.len() < block {
            let padding = block - self.text.len();
            self.text.splice(..0, std::iter::repeat_n(0, padding));
        }
        self.session.logits().unwrap().to_vec()
    }

    /// Runs through the events; `check` gets the options, the text and the logits after each look and at the end.
    fn run(runtime: &Runtime, options: &SessionOptions, events: &[Event], check: impl Fn(&[u32], &[f32])) {
        let session = runtime.session(options).unwrap();
        let mut pair = Pair { runtime, session, text: Vec::new() };
        for event in events.iter().chain([&Event::Look]) {
            pair.apply(event);
            assert!(pair.session.length() == pair.text.len() as u64);
            if matches!(event, Event::Look) && !pair.text.is_empty() {
                let logits = pair.logits();
                check(&pair.text, &logits);
            }
        }
    }
}

static EXACT: LazyLock<(Runtime, Reference)> = LazyLock::new(|| {
    let model = f32_model("main");
    let reference = Reference::read(&case("main"), &model);
    (Runtime::new(model, 1).unwrap(), reference)
});

static QUANTIZED: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::open(quantize(&case("main"), "q4").1).expect("the file is mapped"));

#[test]
fn plain_loops_reproduce_the_reference() {
    let (tokens, plain) = (Golden::read("main").tokens.repeat(2), &EXACT.1);
    for (window, sinks) in WINDOWS {
        let expected = expected("main", window, sinks);
        for row in (0..tokens.len() - 4).step_by(37) {
            let logits: Vec<f32> =
                plain.logits(&tokens[..row + 4], window, sinks).into_iter().map(|v| v as f32).collect();
            assert!(distance(row, &logits, &expected) < 1e-4, "window {window}, {sinks} sinks, row {row}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn logits_depend_on_the_text_alone(
        window in 1usize..9, sinks in 0usize..4, left in any::<bool>(), int8 in any::<bool>(),
        events in prop::collection::vec(event(), 1..12)
    ) {
        let alignment = Some(if left { Alignment::Left } else { Alignment::Tail });
        let options = SessionOptions { alignment, ..options(window, sinks) };
        let (runtime, plain) = &*EXACT;
        Pair::run(runtime, &options, &events, |text, logits| {
            let expected = plain.logits(text, window, sinks);
            let worst = logits.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-3, "{worst} after {} tokens", text.len());
        });
        // Quantized, it is the same to the bit as the text in one piece.
        let cache_type = Some(if int8 { CacheType::Q8 } else { CacheType::F16 });
        let options = SessionOptions { cache_type, ..options };
        let fresh = SessionOptions { alignment: Some(Alignment::Tail), ..options.clone() };
        Pair::run(&QUANTIZED, &options, &events, |text, logits| {
            let mut session = QUANTIZED.session(&fresh).unwrap();
            session.append(text).unwrap();
            assert!(session.logits().unwrap() == logits, "after {} tokens", text.len());
        });
    }

    /// As far back as the documentation says.
    #[test]
    fn a_rolled_ring_rewinds_by_32_blocks(window in 1usize..40, sinks in 0usize..4, tokens in 1usize..600) {
        let runtime = &QUANTIZED;
        let mut session = runtime.session(&options(window, sinks)).unwrap();
        session.append(&vec![7; tokens]).unwrap();
        let blocks = session.blocks();
        for back in 0..=blocks.min(32) {
            prop_assert!(session.can_rewind(blocks - back));
        }
        for pinned in 0..=blocks.min(sinks as u64) {
            prop_assert!(session.can_rewind(pinned));
        }
        prop_assert!(!session.can_rewind(blocks + 1) && session.rewind(blocks + 1).is_err());
    }
}
