//! Keys and values in pages.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kernels::s2::{Cache, CacheLayout};
use kernels::{PageLists, TensorView, bf16, f16};

use crate::abi;
use crate::argument::{Out, size};
use crate::failure::Result;
use crate::guard::guard;
use crate::handle::{destroy, give, object, take};
use crate::plan::s2_config;
use crate::request;
use crate::sized::{self, Place, Versioned};
use crate::stream::Queue;
use crate::tensor::{Coded, Given};

/// A cache of either type.
enum Pages {
    F16(Cache<f16>),
    Bf16(Cache<bf16>),
}

/// Appending is exclusive; views are addresses.
pub struct S2Cache(Mutex<Pages>);

object!(S2Cache, abi::lacuna_s2_cache, 9, "cache of blocks");

impl S2Cache {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! with_pages {
    ($pages:expr, $cache:ident => $body:expr) => {
        match $pages {
            Pages::F16($cache) => $body,
            Pages::Bf16($cache) => $body,
        }
    };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_page_lists(
    stream: *mut abi::lacuna_stream,
    page_size: i64,
    kv_len: i64,
    indptr: *const abi::lacuna_tensor,
    indices: *const abi::lacuna_tensor,
    last_page_len: *const abi::lacuna_tensor,
    block_table: *const abi::lacuna_tensor,
    kv_lens: *const abi::lacuna_tensor,
) -> abi::lacuna_status {
    guard(|| {
        let queue = take::<Queue>(stream)?;
        // SAFETY: the header asks for structs as large as they say, of such memory.
        let read = |what, tensor| unsafe { Given::read(what, tensor, &queue) };
        let (indptr, indices) = (read("indptr", indptr)?, read("indices", indices)?);
        let (last_page_len, table) = (read("last_page_len", last_page_len)?, read("block_table", block_table)?);
        let kv_lens = read("kv_lens", kv_lens)?;
        let (page_size, kv_len) = (size("page_size", page_size)?, size("kv_len", kv_len)?);
        let lists = PageLists {
            indptr: indptr.view(&queue)?,
            indices: indices.view(&queue)?,
            last_page_len: last_page_len.view(&queue)?,
        };
        let (table, kv_lens) = (table.view_mut(&queue)?, kv_lens.view_mut(&queue)?);
        lists.block_table_into(&queue.stream, page_size, kv_len, table, kv_lens)?;
        Ok(())
    })
}

/// # Safety
/// Both are null or structs as large as they say.
unsafe fn layout(shape: *const abi::lacuna_shape, config: *const abi::lacuna_s2_config) -> Result<CacheLayout> {
    // SAFETY: passed on to the caller.
    let (shape, config) = unsafe { (request::shape(shape)?, sized::read_optional(config)?) };
    Ok(CacheLayout::new(&s2_config(&config)?, &shape)?)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_s2_cache_bytes(
    shape: *const abi::lacuna_shape,
    config: *const abi::lacuna_s2_config,
    bytes: *mut usize,
    full_bytes: *mut usize,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and places for two numbers.
        let (bytes, full_bytes, layout) =
            unsafe { (Out::new("bytes", bytes)?, Out::new("full_bytes", full_bytes)?, layout(shape, config)?) };
        bytes.set(layout.bytes());
        full_bytes.set(layout.full_bytes());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_s2_cache_create(
    stream: *mut abi::lacuna_stream,
    shape: *const abi::lacuna_shape,
    config: *const abi::lacuna_s2_config,
    cache: *mut *mut abi::lacuna_s2_cache,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and a place for a handle.
        let (out, layout) = unsafe { (Out::new("cache", cache)?, layout(shape, config)?) };
        let queue = take::<Queue>(stream)?;
        let pages = match layout.shape().dtype {
            kernels::DType::F16 => Pages::F16(Cache::new(&queue.stream, &layout)?),
            kernels::DType::BF16 => Pages::Bf16(Cache::new(&queue.stream, &layout)?),
        };
        give(S2Cache(Mutex::new(pages)), out)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_s2_cache_append(
    stream: *mut abi::lacuna_stream,
    cache: *mut abi::lacuna_s2_cache,
    k: *const abi::lacuna_tensor,
    v: *const abi::lacuna_tensor,
    kv_lens: *const abi::lacuna_tensor,
    added: *const abi::lacuna_tensor,
    queries: i64,
) -> abi::lacuna_status {
    guard(|| {
        let (queue, cache) = (take::<Queue>(stream)?, take::<S2Cache>(cache)?);
        // SAFETY: the header asks for structs as large as they say, of such memory.
        let (k, v, kv_lens, added) = unsafe {
            (
                Given::read("k", k, &queue)?,
                Given::read("v", v, &queue)?,
                Given::read("kv_lens", kv_lens, &queue)?,
                Given::read_optional("added", added, &queue)?,
            )
        };
        let (kv_lens, queries) = (kv_lens.tensor(&queue)?, size("queries", queries)?);
        let added = added.map(|added| added.tensor(&queue)).transpose()?;
        with_pages!(&mut *cache.lock(), cache => {
            cache.append(&queue.stream, k.view(&queue)?, v.view(&queue)?, &kv_lens, added.as_ref(), queries)?
        });
        Ok(())
    })
}

/// What the caller passes back as a tensor.
fn described<T: Coded>(view: &TensorView<'_, T>) -> abi::lacuna_tensor {
    let [batch, head, row] = view.layout().strides();
    abi::lacuna_tensor {
        dtype: T::CODE,
        data: view.as_ptr().cast_mut().cast(),
        shape: view.dims().map(|dim| dim as i64),
        strides: [batch, head, row, 1],
        ..Versioned::defaults()
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_s2_cache_views(
    cache: *mut abi::lacuna_s2_cache,
    kv_len: i64,
    k: *mut abi::lacuna_tensor,
    v: *mut abi::lacuna_tensor,
    block_table: *mut abi::lacuna_tensor,
    page_size: *mut i64,
) -> abi::lacuna_status {
    guard(|| {
        // SAFETY: the header asks for structs as large as they say, and a place for a number.
        let (k, v, table, page_size) =
            unsafe { (Place::new(k)?, Place::new(v)?, Place::new(block_table)?, Out::new("page_size", page_size)?) };
        let (cache, kv_len) = (take::<S2Cache>(cache)?, size("kv_len", kv_len)?);
        with_pages!(&*cache.lock(), cache => {
            let paged = cache.paged(kv_len)?;
            let (k_view, v_view) = (cache.k()?, cache.v()?);
            k.set(described(&k_view));
            v.set(described(&v_view));
            table.set(described(&paged.block_table));
            page_size.set(paged.page_size as i64);
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_s2_cache_destroy(cache: *mut abi::lacuna_s2_cache) -> abi::lacuna_status {
    guard(|| destroy::<S2Cache>(cache))
}
