//! Spans as a subscriber sees them.

use std::sync::{Arc, Mutex};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::step;

/// Writes the name of each span where it opens, and the sizes that the first one names.
#[derive(Default)]
struct Names {
    /// Names by id, from 1.
    spans: Mutex<Vec<&'static str>>,
    seen: Arc<Mutex<(usize, String, Vec<&'static str>)>>,
}

impl Subscriber for Names {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "lacuna"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let metadata = span.metadata();
        if metadata.name() == "seer.select" {
            self.seen.lock().unwrap().2 = metadata.fields().iter().map(|field| field.name()).collect();
        }
        let mut spans = self.spans.lock().unwrap();
        spans.push(metadata.name());
        Id::from_u64(spans.len() as u64)
    }

    fn enter(&self, span: &Id) {
        let name = self.spans.lock().unwrap()[span.into_u64() as usize - 1];
        let mut seen = self.seen.lock().unwrap();
        let indent = "  ".repeat(seen.0);
        seen.1 += &format!("{indent}{name}\n");
        seen.0 += 1;
    }

    fn exit(&self, _: &Id) {
        self.seen.lock().unwrap().0 -= 1;
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

#[test]
fn subscribers_see_planning_and_launching() {
    let names = Names::default();
    let seen = Arc::clone(&names.seen);
    tracing::subscriber::with_default(names, step::run);
    let (open, text, fields) = &*seen.lock().unwrap();
    assert_eq!((*open, text.as_str()), (0, step::SEEN));
    assert_eq!(*fields, ["q_len", "kv_len"]);
}
