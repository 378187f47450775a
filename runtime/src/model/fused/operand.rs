//! A tensor of the file as a tensor of the engine: which of its axes lies where in memory.

use sedge_engine::{Dims, ValueId};

/// Bytes of the engine with the sizes that the file gives them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) value: ValueId,
    /// Sizes along the file's axes.
    pub(super) shape: Vec<usize>,
    /// The file's axes in the order of memory, outermost first.
    pub(super) order: Vec<usize>,
}

/// The axes of a tensor in the file's own order.
pub(super) fn natural(rank: usize) -> Vec<usize> {
    (0..rank).collect()
}

/// Rows and columns before channels, as the engine wants pictures: of `[n, c, spatial…]`.
pub(super) fn channels_last(rank: usize) -> Vec<usize> {
    let mut order = natural(rank);
    if rank > 2 {
        order[1..].rotate_left(1);
    }
    order
}

/// Four sizes of at most four axes in the order of memory; axes of size 1 come before them.
pub(super) fn padded(shape: &[usize], order: &[usize]) -> Option<Dims> {
    let missing = 4_usize.checked_sub(order.len())?;
    let mut sizes = [1; 4];
    order.iter().enumerate().for_each(|(at, axis)| sizes[missing + at] = shape[*axis]);
    let [n, h, w, c] = sizes;
    Some(Dims::new(n, h, w, c))
}

/// Four sizes in the order of memory, in which each axis of `keep` has a place of its own, and those places by axis.
/// Neighbours that are not kept are merged where there are more than four.
pub(super) fn grouped(shape: &[usize], order: &[usize], keep: &[usize]) -> Option<(Dims, Vec<Option<usize>>)> {
    let mut places = vec![None; shape.len()];
    if let Some(dims) = padded(shape, order) {
        let missing = 4 - order.len();
        order.iter().enumerate().for_each(|(at, axis)| places[*axis] = Some(missing + at));
        return Some((dims, places));
    }
    // (size, whether it is a kept axis)
    let mut groups: Vec<(usize, Option<usize>)> = Vec::new();
    for axis in order {
        if keep.contains(axis) {
            groups.push((shape[*axis], Some(*axis)));
        } else if let Some((size, None)) = groups.last_mut() {
            *size *= shape[*axis];
        } else {
            groups.push((shape[*axis], None));
        }
    }
    groups.retain(|(size, kept)| *size != 1 || kept.is_some());
    let missing = 4_usize.checked_sub(groups.len())?;
    let mut sizes = [1; 4];
    for (at, (size, kept)) in groups.into_iter().enumerate() {
        sizes[missing + at] = size;
        if let Some(axis) = kept {
            places[axis] = Some(missing + at);
        }
    }
    let [n, h, w, c] = sizes;
    Some((Dims::new(n, h, w, c), places))
}

impl Operand {
    /// Whether memory has the same order under `order`: axes of size 1 can be anywhere.
    pub(super) fn lies_in(&self, order: &[usize]) -> bool {
        let long = |axis: &&usize| self.shape[**axis] != 1;
        self.order.iter().filter(long).eq(order.iter().filter(long))
    }

    /// With its axes in another order: the result's axis `i` is this one's axis `axes[i]`. Nothing moves in memory.
    pub(super) fn transposed(&self, axes: &[usize]) -> Self {
        let shape = axes.iter().map(|axis| self.shape[*axis]).collect();
        let place = |old: &usize| axes.iter().position(|axis| axis == old).unwrap_or(0);
        Self { value: self.value, shape, order: self.order.iter().map(place).collect() }
    }

    /// Under other sizes, when that leaves memory as it is: each group of axes that becomes another group must lie
    /// together and in order.
    pub(super) fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        let old: Vec<usize> = (0..self.shape.len()).filter(|axis| self.shape[*axis] != 1).collect();
        let new: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] != 1).collect();
        // First old axis of each group, and the new axes of it.
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (mut from, mut to) = (vec![old[i]], vec![*new.get(j)?]);
            let (mut product, mut wanted) = (self.shape[old[i]], shape[new[j]]);
            (i, j) = (i + 1, j + 1);
            while product != wanted {
                if product < wanted {
                    let axis = *old.get(i)?;
                    product *= self.shape[axis];
                    from.push(axis);
                    i += 1;
                } else {
                    let axis = *new.get(j)?;
                    wanted *= shape[axis];
                    to.push(axis);
                    j += 1;
                }
            }
            groups.push((from, to));
        }
        if j != new.len() {
            return None;
        }
        let memory: Vec<usize> = self.order.iter().copied().filter(|axis| self.shape[*axis] != 1).collect();
        let mut order: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] == 1).collect();
        let mut at = 0;
        while at < memory.len() {
            let (from, to) = groups.iter().find(|(from, _)| from[0] == memory[at])?;
            if memory.get(at..at + from.len()) != Some(from.as_slice()) {
                return None;
            }
            at += from.len();
            order.extend(to);
        }
        Some(Self { value: self.value, shape: shape.to_vec(), order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(shape: &[usize], order: &[usize]) -> Operand {
        Operand { value: ValueId(0), shape: shape.to_vec(), order: order.to_vec() }
    }

    #[test]
    fn channels_that_lie_last_stay_there_when_axes_are_named_anew() {
        let picture = operand(&[1, 8, 5, 6], &[0, 2, 3, 1]);
        let turned = picture.transposed(&[0, 2, 3, 1]);
        assert_eq!((turned.shape.as_slice(), turned.order.as_slice()), (&[1, 5, 6, 8][..], &[0, 1, 2, 3][..]));
    }

    #[test]
    fn other_sizes_are_free_where_memory_allows() {
        let picture = operand(&[1, 8, 5, 6], &[0, 2, 3, 1]);
        let rows = picture.reshaped(&[1, 8, 30]).expect("rows and columns are neighbours");
        assert!(rows.lies_in(&[0, 2, 1]));
        assert_eq!(picture.reshaped(&[1, 240]), None, "channels lie in between");
        let split = picture.reshaped(&[1, 2, 4, 5, 6]).expect("channels in two");
        assert!(split.lies_in(&[0, 3, 4, 1, 2]));
        let pooled = operand(&[1, 8, 1, 1], &[0, 2, 3, 1]);
        assert!(pooled.reshaped(&[1, 8]).expect("only channels").lies_in(&[0, 1]));
    }

    #[test]
    fn more_than_four_axes_are_merged_around_those_that_are_kept() {
        let (dims, places) = grouped(&[1, 3, 2, 4, 5, 6], &[0, 1, 2, 3, 4, 5], &[3]).expect("three groups");
        assert_eq!((dims, places[3]), (Dims::new(1, 6, 4, 30), Some(2)));
        assert_eq!(grouped(&[2; 6], &[0, 1, 2, 3, 4, 5], &[1, 3]), None);
    }
}
