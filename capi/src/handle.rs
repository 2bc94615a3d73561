//! Handles: numbers that stand for objects, checked at every use.
//!
//! A handle is `kind << 56 | generation << 24 | slot`. A slot counts up its generation when its object is destroyed, so
//! that an old handle finds nothing. Calls hold an object through a reference count: it may be destroyed meanwhile.

use std::sync::{Arc, PoisonError, RwLock};

use crate::abi;
use crate::argument::Out;
use crate::failure::{Failure, Result};

const _: () = assert!(size_of::<usize>() == 8, "handles need 64 bits");

const SLOTS: usize = 1 << 24;

/// Something that handles stand for.
pub trait Object: Send + Sync + Sized + 'static {
    /// The opaque type of the header.
    type Handle;
    /// 1 to 255, different for each type.
    const KIND: u8;
    /// What messages call it.
    const NAME: &'static str;

    fn registry() -> &'static Registry<Self>;
}

/// All objects of one type.
pub struct Registry<T>(RwLock<Slots<T>>);

struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
}

struct Slot<T> {
    generation: u32,
    object: Option<Arc<T>>,
}

impl<T> Registry<T> {
    pub const fn new() -> Self {
        Self(RwLock::new(Slots { slots: Vec::new(), free: Vec::new() }))
    }
}

/// Names an object type: `object!(Type, abi handle, kind, "name")`.
macro_rules! object {
    ($type:ty, $handle:ty, $kind:literal, $name:literal) => {
        impl crate::handle::Object for $type {
            type Handle = $handle;
            const KIND: u8 = $kind;
            const NAME: &'static str = $name;

            fn registry() -> &'static crate::handle::Registry<Self> {
                static OBJECTS: crate::handle::Registry<$type> = crate::handle::Registry::new();
                &OBJECTS
            }
        }
    };
}
pub(crate) use object;

/// Gives an object to the caller, as a handle in `out`.
pub fn give<T: Object>(object: T, out: Out<*mut T::Handle>) -> Result<()> {
    let mut slots = T::registry().0.write().unwrap_or_else(PoisonError::into_inner);
    let index = match slots.free.pop() {
        Some(index) => index,
        None if slots.slots.len() < SLOTS => {
            slots.slots.push(Slot { generation: 0, object: None });
            slots.slots.len() - 1
        }
        None => {
            let text = format!("{}: more than {SLOTS} at a time", T::NAME);
            return Err(Failure::new(abi::LACUNA_ERROR_OUT_OF_MEMORY, text));
        }
    };
    let slot = &mut slots.slots[index];
    slot.object = Some(Arc::new(object));
    let number = usize::from(T::KIND) << 56 | (slot.generation as usize) << 24 | index;
    out.set(std::ptr::without_provenance_mut(number));
    Ok(())
}

/// The object behind a handle.
pub fn take<T: Object>(handle: *mut T::Handle) -> Result<Arc<T>> {
    let slots = T::registry().0.read().unwrap_or_else(PoisonError::into_inner);
    let index = find::<T>(handle.addr(), &slots)?;
    slots.slots[index].object.clone().ok_or_else(|| gone::<T>())
}

/// The object behind a handle, or nothing for null.
pub fn take_optional<T: Object>(handle: *mut T::Handle) -> Result<Option<Arc<T>>> {
    if handle.is_null() { Ok(None) } else { take(handle).map(Some) }
}

/// Ends a handle. Nothing to do for null.
pub fn destroy<T: Object>(handle: *mut T::Handle) -> Result<()> {
    if handle.is_null() {
        return Ok(());
    }
    let object = {
        let mut slots = T::registry().0.write().unwrap_or_else(PoisonError::into_inner);
        let index = find::<T>(handle.addr(), &slots)?;
        let slot = &mut slots.slots[index];
        let object = slot.object.take();
        // A slot whose generations are used up stays empty.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            slots.free.push(index);
        }
        object
    };
    // Outside the lock: freeing device memory takes its time.
    drop(object);
    Ok(())
}

/// The slot of a handle, of its generation.
fn find<T: Object>(number: usize, slots: &Slots<T>) -> Result<usize> {
    let failure = |text: String| Err(Failure::new(abi::LACUNA_ERROR_HANDLE, text));
    if number == 0 {
        let text = format!("{}: expected a handle, got null", T::NAME);
        return Err(Failure::new(abi::LACUNA_ERROR_NULL, text));
    }
    let (kind, generation, index) = ((number >> 56) as u8, (number >> 24) as u32, number % SLOTS);
    if kind != T::KIND {
        return failure(format!("{}: expected the handle of one, got {}", T::NAME, describe(number, kind)));
    }
    let Some(slot) = slots.slots.get(index) else {
        return failure(format!("{}: {number:#x} never was a handle", T::NAME));
    };
    if slot.generation != generation || slot.object.is_none() {
        if generation > slot.generation {
            return failure(format!("{}: {number:#x} never was a handle", T::NAME));
        }
        return Err(gone::<T>());
    }
    Ok(index)
}

fn gone<T: Object>() -> Failure {
    Failure::new(abi::LACUNA_ERROR_HANDLE, format!("{}: its handle was destroyed", T::NAME))
}

fn describe(number: usize, kind: u8) -> String {
    use crate::{cache, device, gate, gate_cache, gradient, hyper, plan, schedule, stream};
    let names = [
        (device::Machine::KIND, device::Machine::NAME),
        (stream::Queue::KIND, stream::Queue::NAME),
        (plan::Plan::KIND, plan::Plan::NAME),
        (schedule::Arranged::KIND, schedule::Arranged::NAME),
        (gate::Gate::KIND, gate::Gate::NAME),
        (gate_cache::Cache::KIND, gate_cache::Cache::NAME),
        (hyper::Hyper::KIND, hyper::Hyper::NAME),
        (gradient::Columns::KIND, gradient::Columns::NAME),
        (cache::S2Cache::KIND, cache::S2Cache::NAME),
    ];
    match names.iter().find(|(other, _)| *other == kind) {
        Some((_, name)) => format!("that of a {name}"),
        None => format!("{number:#x}, which is none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(i32);
    enum Opaque {}
    object!(Thing, Opaque, 200, "thing");

    fn make(value: i32) -> *mut Opaque {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a live place.
        let out = unsafe { Out::new("thing", &mut handle) }.unwrap();
        give(Thing(value), out).unwrap();
        handle
    }

    fn failure(handle: *mut Opaque) -> (abi::lacuna_status, String) {
        let Failure { status, text } = take::<Thing>(handle).err().unwrap();
        assert_eq!(destroy::<Thing>(handle).err().map(|failure| failure.status), (!handle.is_null()).then_some(status));
        (status, text)
    }

    #[test]
    fn only_live_handles_find_their_object() {
        let (one, two) = (make(1), make(2));
        assert_eq!((take::<Thing>(one).unwrap().0, take::<Thing>(two).unwrap().0), (1, 2));
        let held = take::<Thing>(one).unwrap();
        destroy::<Thing>(one).unwrap();
        assert_eq!(held.0, 1);
        assert_eq!(failure(one), (abi::LACUNA_ERROR_HANDLE, "thing: its handle was destroyed".into()));
        let three = make(3);
        assert_ne!(three, one);
        assert_eq!(failure(one), (abi::LACUNA_ERROR_HANDLE, "thing: its handle was destroyed".into()));
        assert_eq!(take::<Thing>(three).unwrap().0, 3);

        assert_eq!(failure(std::ptr::null_mut()).0, abi::LACUNA_ERROR_NULL);
        destroy::<Thing>(std::ptr::null_mut()).unwrap();
        for garbage in [1, 0x7fff_dead_beef, usize::MAX, 200 << 56 | 0xFF_FFFF, 200 << 56 | 7 << 24 | (SLOTS - 1)] {
            assert_eq!(failure(std::ptr::without_provenance_mut(garbage)).0, abi::LACUNA_ERROR_HANDLE, "{garbage:#x}");
        }
        // A generation that the slot has not reached.
        let later = two.addr() + (9 << 24);
        assert!(failure(std::ptr::without_provenance_mut(later)).1.contains("never was"));
        assert!(failure(std::ptr::without_provenance_mut(2 << 56)).1.contains("that of a stream"));
    }
}
