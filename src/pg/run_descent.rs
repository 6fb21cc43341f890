//! Whether a B-tree over a run's id and `ts` has an entry of a run: one way from the root to a leaf.
//!
//! The server's own scan would do (`index_getbitmap`). It costs more where many indexes are asked and few have an entry: it
//! makes the state of a scan for each, and calls a function for each comparison.

use crate::domain::instant::Instant;
use crate::pg::btree::{
    ALTERNATIVE_COUNT, ALTERNATIVE_TID, META_PAGE, NONE, Opaque, Roots, Strange, Tid, block, number,
};
use crate::pg::page::{Bytes, Pin, Shared};
use crate::pg::relation::Relation;
use crate::pg::server;

/// What is looked for: one run, from and to a `ts`, both included.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    run: u128,
    from: Option<Instant>,
    to: Option<Instant>,
}

/// Where a search begins, as it was found the last time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Root {
    block: u32,
    level: u32,
}

/// In `t_info` of an index tuple: some column is null, so that bits that tell which come before the columns
/// (src/include/access/itup.h).
const HAS_NULLS: u16 = 0x8000;

/// Where an index tuple has what is read here.
const INFO: usize = 6;
const NULL_BITS: usize = 8;
const DATA: usize = 8;
const DATA_AFTER_NULL_BITS: usize = 16;

/// The size of a run's id, after which `ts` stands.
const RUN_SIZE: usize = 16;

/// What is read of an item: as many columns as it has, at most two.
enum Key {
    None,
    Run(u128),
    RunAndTs(u128, Option<Instant>),
    /// The run is null: it comes after all others.
    Null,
}

/// Where an item lies: as the index orders them, before the first that is looked for, or not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    /// It is of the run, and not before `from`; a `ts` that is null comes last.
    OfRun(Option<Instant>),
    After,
}

/// Where to go on, or the end of the way.
enum Step {
    To(u32),
    /// At another root.
    Again,
    Found(bool),
}

impl Wanted {
    /// Of a run, by the bytes of its id, which is how the index orders them (src/backend/utils/adt/uuid.c).
    #[must_use]
    pub const fn new(run: [u8; 16], from: Option<Instant>, to: Option<Instant>) -> Self {
        Self { run: u128::from_be_bytes(run), from, to }
    }

    /// Whether `index`, which begins with a uuid and a timestamptz, both ascending, has an entry that is wanted. One that is
    /// marked as dead counts. `root` is what this has found before. The caller holds a snapshot, so that no page that is on
    /// the way is used for another purpose.
    ///
    /// # Errors
    ///
    /// Where a page is not as expected.
    pub fn has_entry(&self, index: &Relation, root: &mut Option<Root>) -> Result<bool, Strange> {
        let mut next = match root {
            Some(root) => self.from(index, *root)?,
            None => Step::Again,
        };
        loop {
            server::check_for_interrupts();
            next = match next {
                Step::Found(found) => return Ok(found),
                Step::To(NONE) => return Ok(false),
                Step::To(block) => Pin::main(index, block).look(|page| self.step(page))?,
                Step::Again => Step::To(find(index, root)?),
            };
        }
    }

    /// Where to go from a root that was found before. It will do as long as it is alone on the same level: then every entry
    /// is below it, whatever has become of the tree above (src/backend/access/nbtree/nbtpage.c, `_bt_getroot`).
    fn from(&self, index: &Relation, root: Root) -> Result<Step, Strange> {
        Pin::main(index, root.block).look(|page| {
            let opaque = Opaque::of(page)?;
            let is_still_root =
                !opaque.is_ignored() && opaque.is_alone() && opaque.level == root.level;
            if is_still_root { self.step(page) } else { Ok(Step::Again) }
        })
    }

    /// What a page says.
    fn step(&self, page: &Shared) -> Result<Step, Strange> {
        let opaque = Opaque::of(page)?;
        let (first, last) = (opaque.first_item(), page.items());
        let is_leaf = opaque.is_leaf();
        let is_beyond = |item| Ok(self.place(key(page, item, !is_leaf)?) == Place::Before);
        // What was here may have gone to the right since the way to here was read.
        if opaque.is_ignored()
            || opaque.next != NONE && self.place(key(page, 1, true)?) == Place::Before
        {
            return Ok(Step::To(opaque.next));
        }
        if !is_leaf {
            // The first item is that of all that lies before the second one; it has no columns.
            let item = first_not(first + 1, last, is_beyond)? - 1;
            return below(page, item).map(Step::To);
        }
        let found = first_not(first, last, is_beyond)?;
        if found > last {
            return Ok(Step::To(opaque.next));
        }
        Ok(Step::Found(match self.place(key(page, found, false)?) {
            Place::OfRun(Some(ts)) => self.to.is_none_or(|to| ts <= to),
            Place::OfRun(None) => self.from.is_none() && self.to.is_none(),
            Place::Before | Place::After => false,
        }))
    }

    fn place(&self, key: Key) -> Place {
        match key {
            Key::None => Place::Before,
            Key::Null => Place::After,
            Key::Run(run) | Key::RunAndTs(run, _) if run < self.run => Place::Before,
            Key::Run(run) | Key::RunAndTs(run, _) if run > self.run => Place::After,
            // A column that was cut off lies before all values.
            Key::Run(_) => Place::Before,
            Key::RunAndTs(_, Some(ts)) if self.from.is_some_and(|from| ts < from) => Place::Before,
            Key::RunAndTs(_, ts) => Place::OfRun(ts),
        }
    }
}

/// Finds where a search begins, and remembers it; `NONE` where the index is empty.
fn find(index: &Relation, root: &mut Option<Root>) -> Result<u32, Strange> {
    let roots = Pin::main(index, META_PAGE).look(Roots::of)?;
    if roots.top == NONE {
        return Ok(NONE);
    }
    *root = Some(Root { block: roots.fast, level: roots.fast_level });
    Ok(roots.fast)
}

/// The page below an item of an inner page.
fn below(page: &Shared, item: usize) -> Result<u32, Strange> {
    let (at, ..) = page.pointer(item).ok_or(Strange)?;
    page.bytes(at).map(|tid: Tid| block(&tid)).ok_or(Strange)
}

/// What is read of an item. One of an inner page, and a high key, may lack columns.
fn key(page: &Shared, item: usize, is_pivot: bool) -> Result<Key, Strange> {
    let (at, ..) = page.pointer(item).ok_or(Strange)?;
    let info = page.u16(at + INFO).ok_or(Strange)?;
    let mut columns = 2;
    if is_pivot && info & ALTERNATIVE_TID != 0 {
        let tid = page.bytes(at).ok_or(Strange)?;
        columns = number(&tid) & ALTERNATIVE_COUNT;
    }
    let (data, nulls) = if info & HAS_NULLS == 0 {
        (at + DATA, 0)
    } else {
        let [not_null] = page.bytes(at + NULL_BITS).ok_or(Strange)?;
        (at + DATA_AFTER_NULL_BITS, !not_null)
    };
    if columns == 0 {
        return Ok(Key::None);
    }
    if nulls & 1 != 0 {
        return Ok(Key::Null);
    }
    let run = page.bytes(data).map(u128::from_be_bytes).ok_or(Strange)?;
    if columns == 1 {
        return Ok(Key::Run(run));
    }
    if nulls & 2 != 0 {
        return Ok(Key::RunAndTs(run, None));
    }
    let ts = page.bytes(data + RUN_SIZE).map(i64::from_ne_bytes).ok_or(Strange)?;
    Ok(Key::RunAndTs(run, Some(Instant(ts))))
}

/// The first item from `first` to `last` that is not before; `last + 1` where all are. Those before come first.
fn first_not(
    first: usize,
    last: usize,
    is_before: impl Fn(usize) -> Result<bool, Strange>,
) -> Result<usize, Strange> {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = usize::midpoint(low, high);
        if is_before(middle)? { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}
