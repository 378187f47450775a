//! FlatBuffers, read without trusting them.
//!
//! A file is tables that point at each other by offsets. Every offset is checked at the moment it is followed, nothing
//! is read ahead, and alignment is not assumed. The schema's paths have a fixed length, so offsets that lead in circles
//! end there; they only repeat what was read, and the readers above bound how often.

/// What is wrong with the file, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub(super) struct Broken {
    at: usize,
    problem: &'static str,
}

type Result<T> = std::result::Result<T, Broken>;

fn take<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let outside = Broken { at, problem: "an offset points outside of the file" };
    file.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(outside)
}

/// The place that the offset at `at` points to.
fn follow(file: &[u8], at: usize) -> Result<usize> {
    let offset = u32::from_le_bytes(take(file, at)?) as usize;
    let broken = Broken { at, problem: "an offset points outside of the file" };
    at.checked_add(offset).filter(|&to| offset > 0 && to < file.len()).ok_or(broken)
}

/// A table: fields by number, each of which may be absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    file: &'a [u8],
    at: usize,
    /// Where its fields are: an offset of 16 bits for each, 0 for those that are absent.
    slots: &'a [u8],
    /// Its own bytes.
    size: usize,
}

impl<'a> Table<'a> {
    /// The table that the file begins with.
    pub(super) fn root(file: &'a [u8]) -> Result<Self> {
        Self::at(file, follow(file, 0)?)
    }

    fn at(file: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(take(file, at)?));
        let broken = Broken { at, problem: "a table has no list of its fields" };
        let vtable = usize::try_from(at as i64 - back).map_err(|_| broken)?;
        let bytes = usize::from(u16::from_le_bytes(take(file, vtable)?));
        let size = usize::from(u16::from_le_bytes(take(file, vtable.saturating_add(2))?));
        let list = file.get(vtable..vtable.saturating_add(bytes)).and_then(|list| list.get(4..)).ok_or(broken)?;
        if at.checked_add(size).is_none_or(|end| end > file.len()) {
            return Err(Broken { at, problem: "a table does not end inside of the file" });
        }
        Ok(Self { file, at, slots: list, size })
    }

    /// The place of a field of `N` bytes.
    fn field<const N: usize>(&self, number: usize) -> Result<Option<usize>> {
        let Some(slot) = self.slots.get(2 * number..2 * number + 2) else { return Ok(None) };
        let offset = usize::from(u16::from_le_bytes([slot[0], slot[1]]));
        if offset == 0 {
            return Ok(None);
        }
        if offset < 4 || offset + N > self.size {
            return Err(Broken { at: self.at, problem: "a field lies outside of its table" });
        }
        Ok(Some(self.at + offset))
    }

    fn scalar<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>> {
        self.field::<N>(number)?.map(|at| take(self.file, at)).transpose()
    }

    pub(super) fn u8(&self, number: usize) -> Result<u8> {
        Ok(self.scalar::<1>(number)?.map_or(0, |[byte]| byte))
    }

    pub(super) fn i32(&self, number: usize, absent: i32) -> Result<i32> {
        Ok(self.scalar(number)?.map_or(absent, i32::from_le_bytes))
    }

    pub(super) fn u32(&self, number: usize) -> Result<u32> {
        Ok(self.scalar(number)?.map_or(0, u32::from_le_bytes))
    }

    pub(super) fn u64(&self, number: usize) -> Result<u64> {
        Ok(self.scalar(number)?.map_or(0, u64::from_le_bytes))
    }

    pub(super) fn f32(&self, number: usize) -> Result<f32> {
        Ok(self.scalar(number)?.map_or(0.0, f32::from_le_bytes))
    }

    pub(super) fn table(&self, number: usize) -> Result<Option<Self>> {
        let Some(at) = self.field::<4>(number)? else { return Ok(None) };
        Self::at(self.file, follow(self.file, at)?).map(Some)
    }

    /// A vector of elements of `N` bytes; an empty one when it is absent.
    pub(super) fn vector<const N: usize>(&self, number: usize) -> Result<Vector<'a, N>> {
        let Some(at) = self.field::<4>(number)? else { return Ok(Vector::default()) };
        let at = follow(self.file, at)?;
        let count = u32::from_le_bytes(take(self.file, at)?) as usize;
        let bytes = count.checked_mul(N).and_then(|bytes| self.file.get(at + 4..)?.get(..bytes));
        let broken = Broken { at, problem: "a vector does not end inside of the file" };
        Ok(Vector { file: self.file, at: at + 4, elements: bytes.ok_or(broken)?.as_chunks().0 })
    }

    /// A text; an empty one when it is absent. What is not UTF-8 is replaced.
    pub(super) fn text(&self, number: usize, bytes_max: usize) -> Result<String> {
        let bytes = self.vector::<1>(number)?.elements.as_flattened();
        Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)]).into_owned())
    }
}

/// Elements of `N` bytes, one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Vector<'a, const N: usize> {
    file: &'a [u8],
    at: usize,
    elements: &'a [[u8; N]],
}

impl<'a, const N: usize> Vector<'a, N> {
    pub(super) fn elements(&self) -> &'a [[u8; N]] {
        self.elements
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }
}

impl<'a> Vector<'a, 4> {
    /// The tables that the elements point to.
    pub(super) fn tables(self) -> impl Iterator<Item = Result<Table<'a>>> {
        (0..self.len()).map(move |index| Table::at(self.file, follow(self.file, self.at + 4 * index)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of one 32-bit field, a vector of two tables that are both the table itself, and a text.
    fn file() -> Vec<u8> {
        let mut file = vec![16, 0, 0, 0];
        // Of the list: its size, the table's size, and three offsets.
        file.extend([10_u16, 16, 4, 8, 12].iter().flat_map(|n| n.to_le_bytes()));
        file.extend([0, 0]);
        assert_eq!(file.len(), 16);
        file.extend(12_i32.to_le_bytes());
        file.extend(7_i32.to_le_bytes());
        file.extend(8_u32.to_le_bytes());
        file.extend(16_u32.to_le_bytes());
        file.extend(2_u32.to_le_bytes());
        file.extend([0_u32.wrapping_sub(20), 0_u32.wrapping_sub(24)].iter().flat_map(|n| n.to_le_bytes()));
        file.extend([2, 0, 0, 0, b'h', b'i']);
        file
    }

    #[test]
    fn fields_are_found_by_number_and_absent_ones_have_a_default() {
        let file = file();
        let table = Table::root(&file).expect("a table");
        assert_eq!((table.i32(0, 1), table.i32(3, 5)), (Ok(7), Ok(5)));
        assert_eq!(table.vector::<4>(1).expect("a vector").len(), 2);
        assert_eq!(table.text(2, 100), Ok("hi".to_owned()));
        assert_eq!(table.vector::<8>(4).expect("none").len(), 0);
    }

    #[test]
    fn an_offset_can_only_lead_on_and_inside() {
        let file = file();
        let table = Table::root(&file).expect("a table");
        let first = table.vector::<4>(1).expect("a vector").tables().next().expect("an element");
        assert!(first.is_err(), "backwards is outside");
        let mut circle = file.clone();
        circle[0] = 0;
        assert_eq!(Table::root(&circle).map(|_| ()).map_err(|e| e.at), Err(0), "to itself");
    }

    #[test]
    fn no_damage_is_more_than_an_error() {
        let good = file();
        let read = |file: &[u8]| -> Result<()> {
            let table = Table::root(file)?;
            table.i32(0, 0)?;
            table.text(2, 10)?;
            table.vector::<4>(1)?.tables().try_for_each(|t| t.and_then(|t| t.i32(0, 0)).map(|_| ()))
        };
        for end in 0..good.len() {
            assert!(read(&good[..end]).is_err(), "cut at {end}");
        }
        for at in 0..good.len() {
            for value in 0..=255 {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = read(&bad);
            }
        }
    }
}
