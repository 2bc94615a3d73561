//! Order between streams: memory belongs to the stream it was made on, and may be used on any other.

use super::Stream;
use crate::error::Result;

/// Runs `launch` on `stream` between what the owners' streams have queued before and what they will queue after: reads
/// see earlier writes, and later writes and frees wait. Owners that are `stream` itself cost nothing.
pub(crate) fn ordered<R>(stream: &Stream, owners: &[&Stream], launch: impl FnOnce() -> Result<R>) -> Result<R> {
    let foreign = || {
        let new = |(index, owner): &(usize, &&Stream)| {
            !owner.is(stream) && !owners[..*index].iter().any(|earlier| earlier.is(owner))
        };
        owners.iter().enumerate().filter(new).map(|(_, owner)| *owner)
    };
    for owner in foreign() {
        stream.wait_for(owner)?;
    }
    let result = launch();
    // Even after a failed launch: one of several kernels may have started.
    for owner in foreign() {
        if let Err(error) = owner.wait_for(stream) {
            // Without the event only an idle stream keeps later frees safe.
            let _ = stream.synchronize();
            result?;
            return Err(error);
        }
    }
    result
}
