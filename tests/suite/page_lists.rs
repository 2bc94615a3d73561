//! Page lists to block tables: every entry, lists that contradict their sizes, and attention over the result.

use crate::harness::{Case, shape, simt, streams};
use crate::pages::Pages;
use lacuna::{
    BlockPlan, Error, ForwardOptions, Mask, PageLists, PagedKv, Ragged, Result, Schedule, Stream, Tensor, attention,
    bf16,
};

struct Lists {
    indptr: Vec<i32>,
    indices: Vec<i32>,
    last_page_len: Vec<i32>,
}

impl Lists {
    fn convert(&self, stream: &Stream, page_size: usize, pages: usize, kv_len: usize) -> Result<[Tensor<i32>; 2]> {
        let [indptr, indices, last] =
            [&self.indptr, &self.indices, &self.last_page_len].map(|values| Tensor::vector(stream, values).unwrap());
        let lists = PageLists { indptr: indptr.view(), indices: indices.view(), last_page_len: last.view() };
        let batch = self.last_page_len.len();
        let mut table = Tensor::<i32>::uninit(stream, [batch, 1, 1, pages])?;
        let mut lens = Tensor::<i32>::uninit(stream, [1, 1, 1, batch])?;
        lists.block_table_into(stream, page_size, kv_len, table.view_mut(), lens.view_mut())?;
        Ok([table, lens])
    }

    fn values(&self, page_size: usize, pages: usize, kv_len: usize) -> [Vec<i32>; 2] {
        let stream = simt(1);
        self.convert(&stream, page_size, pages, kv_len).unwrap().map(|tensor| tensor.to_vec(&stream).unwrap())
    }
}

#[test]
fn rows_and_lengths() {
    let lists = Lists { indptr: vec![0, 2, 2, 5], indices: vec![7, 3, 9, 1, 4], last_page_len: vec![5, 9, 16] };
    let [table, lens] = lists.values(16, 4, 64);
    assert_eq!(table, [7, 3, -1, -1, -1, -1, -1, -1, 9, 1, 4, -1]);
    assert_eq!(lens, [21, 0, 48]);
    // More pages than a row of the table has, and than a block has threads.
    let long = Lists { indptr: vec![0, 300], indices: (0..300).collect(), last_page_len: vec![1] };
    let [table, lens] = long.values(16, 290, 4640);
    assert_eq!((table, lens), ((0..290).collect(), vec![4640]));
    let [table, lens] = long.values(16, 400, 6400);
    let filled: Vec<i32> = (0..300).chain(std::iter::repeat_n(-1, 100)).collect();
    assert_eq!((table, lens), (filled, vec![299 * 16 + 1]));
}

#[test]
fn lists_are_data() {
    let extremes = [i32::MIN, -1, 0, 2, 3, 99, i32::MAX];
    for &a in &extremes {
        for &b in &extremes {
            let lists = Lists { indptr: vec![a, b, 2], indices: vec![5, 6, 7], last_page_len: vec![b, a] };
            let [table, lens] = lists.values(16, 2, 20);
            let id = |&id: &i32| id == -1 || (5..=7).contains(&id);
            assert!(
                table.iter().all(id) && lens.iter().all(|len| (0..=20).contains(len)),
                "{a} {b}: {table:?} {lens:?}"
            );
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let lists = Lists { indptr: vec![0, 1], indices: vec![0], last_page_len: vec![1] };
    let error = |result: Result<[Tensor<i32>; 2]>| result.unwrap_err().to_string();
    let stream = simt(2);
    assert!(error(lists.convert(&stream, 0, 1, 1)).contains("page_size"));
    assert!(error(lists.convert(&stream, 16, 2, 33)).contains("at most 32"));
    let short = Lists { indptr: vec![0], ..lists };
    assert!(matches!(short.convert(&stream, 16, 1, 1), Err(Error::Shape { what: "indptr", .. })));
}

#[test]
fn attention_over_lists_gives_the_bits_of_the_table() {
    let shape = shape(3, (4, 2), (5, 130), 64);
    let (size, lens) = (32, [130, 5, 77]);
    let pages = Pages::shuffled(&shape, size, 1, 3);
    let entries = shape.kv_len.div_ceil(size);
    let mut lists = Lists { indptr: vec![0], indices: vec![], last_page_len: vec![] };
    for (row, &len) in pages.table.chunks(entries).zip(&lens) {
        lists.indices.extend(&row[..usize::div_ceil(len, size)]);
        lists.indptr.push(lists.indices.len() as i32);
        lists.last_page_len.push(((len - 1) % size + 1) as i32);
    }
    let case = Case { pages: Some(pages.clone()), ..Case::new(shape, Mask::CAUSAL) };
    let [q, k, v] = case.inputs::<bf16>();
    for stream in streams(5) {
        let tensor = |values: &[bf16], dims| Tensor::from_slice(&stream, values, dims).unwrap();
        let (q, k, v) = (tensor(&q, case.q_dims()), tensor(&k, case.kv_dims()), tensor(&v, case.kv_dims()));
        let run = |table: &Tensor<i32>, lens: &Tensor<i32>| {
            let ragged = Ragged { kv_lens: Some(lens.view()), ..Ragged::default() };
            let paged = Some(PagedKv { block_table: table.view(), page_size: size });
            let (options, plan) = (ForwardOptions { paged, ragged, ..ForwardOptions::causal() }, BlockPlan::dense());
            let schedule = Schedule::build(&stream, &shape, &options, &plan).unwrap();
            let mut workspace = stream.alloc_bytes(attention::workspace_bytes(&shape, &options)).unwrap();
            let mut out = Tensor::<bf16>::uninit(&stream, q.dims()).unwrap();
            let (q, k, v) = (q.view(), k.view(), v.view());
            attention::forward(
                &stream,
                &shape,
                &options,
                &plan,
                &schedule,
                q,
                k,
                v,
                out.view_mut(),
                None,
                &mut workspace,
            )
            .unwrap();
            out.to_vec(&stream).unwrap()
        };
        let [table, converted] = lists.convert(&stream, size, entries, shape.kv_len).unwrap();
        let given = Tensor::vector(&stream, &lens.map(|len| len as i32)).unwrap();
        assert_eq!(run(&table, &converted), run(&pages.table(&stream, &shape), &given));
    }
}
