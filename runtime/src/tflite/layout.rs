//! Operators that only move bytes.

use super::TfliteError;
use super::importer::Importer;
use super::operator::Operator;
use super::schema::Kind;
use super::value::{State, dims_of};
use sedge_engine::{Dims, Op, Pads, ValueId};

/// An axis counted from the first, given one that may count from the last.
pub(super) fn axis_of(operator: &Operator<'_>, axis: i64, rank: usize) -> Result<usize, TfliteError> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    let axis_found = usize::try_from(counted).ok().filter(|&axis| axis < rank);
    axis_found.ok_or_else(|| operator.refuse(format!("axis {axis} does not exist among {rank}")))
}

/// The same bytes: nothing is computed. The file's tensor says what the shape is.
pub(super) fn reshape(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (from, to) = (operator.input(0)?, operator.output(0)?);
    let elements = |tensor: usize| file.shape(tensor).iter().product::<usize>();
    if elements(from) != elements(to) {
        let problem = format!("{:?} cannot become {:?}", file.shape(from), file.shape(to));
        return Err(operator.refuse(problem));
    }
    if let State::FloatInput(_) | State::Real(..) = file.state(from) {
        let state = file.state(from).clone();
        return file.set(operator, 0, state);
    }
    file.shared(operator, from, to)?;
    let value = file.value(from)?;
    file.yields(operator, value)
}

/// Axes that stay side by side count as one, so that more than four of them can fit.
pub(super) fn transpose(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (from, to) = (operator.input(0)?, operator.output(0)?);
    let quantization = file.shared(operator, from, to)?;
    let shape = file.shape(from).to_vec();
    let mut order = Vec::new();
    for axis in file.integers(operator.input(1)?)? {
        order.push(axis_of(operator, axis, shape.len())?);
    }
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..shape.len()) {
        return Err(operator.refuse(format!("{order:?} is no order of {} axes", shape.len())));
    }
    // Runs of axes in the order of the output, each as its first axis and its size.
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for axis in order.into_iter().filter(|&axis| shape[axis] != 1) {
        match runs.last_mut() {
            // Axes of one element in between do not part their neighbours.
            Some((_, last, size)) if *last < axis && shape[*last + 1..axis].iter().all(|&s| s == 1) => {
                *last = axis;
                *size *= shape[axis];
            }
            _ => runs.push((axis, axis, shape[axis])),
        }
    }
    if runs.len() > 4 {
        return Err(operator.refuse("more than four axes change places; transpose in two steps"));
    }
    let mut inside: Vec<usize> = (0..runs.len()).collect();
    inside.sort_unstable_by_key(|&run| runs[run].0);
    let before = 4 - runs.len();
    let (mut sizes, mut yielded, mut axes) = ([1; 4], [1; 4], [0, 1, 2, 3]);
    for (place, &run) in inside.iter().enumerate() {
        sizes[before + place] = runs[run].2;
        axes[before + run] = before + place;
    }
    for (place, run) in runs.iter().enumerate() {
        yielded[before + place] = run.2;
    }
    let value = file.value(from)?;
    let value = file.view(value, dims(sizes));
    if axes == [0, 1, 2, 3] {
        return file.yields(operator, value);
    }
    let value = file.emit(operator, Op::Transpose { axes }, &[value], dims(yielded), quantization);
    file.yields(operator, value)
}

const fn dims([n, h, w, c]: [usize; 4]) -> Dims {
    Dims::new(n, h, w, c)
}

/// Rows and columns around a picture wait for a convolution that takes them over.
pub(super) fn pad(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (from, to) = (operator.input(0)?, operator.output(0)?);
    let quantization = file.shared(operator, from, to)?;
    let (shape, rank) = (file.shape(from).to_vec(), file.shape(from).len());
    let given = file.integers(operator.input(1)?)?;
    let sizes: Option<Vec<usize>> = given.iter().map(|&size| usize::try_from(size).ok()).collect();
    let sizes = sizes.filter(|sizes| sizes.len() == 2 * rank && rank <= 4);
    let sizes = sizes.ok_or_else(|| operator.refuse(format!("a padding of {given:?} does not fit {shape:?}")))?;
    let around: Vec<(usize, usize)> = sizes.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let padded = |(&size, &(before, after)): (&usize, &(usize, usize))| size.checked_add(before)?.checked_add(after);
    let expected: Option<Vec<usize>> = shape.iter().zip(&around).map(padded).collect();
    if expected.as_deref() != Some(file.shape(to)) {
        let problem = format!("{shape:?} with a padding of {sizes:?} is not {:?}", file.shape(to));
        return Err(operator.refuse(problem));
    }
    if let &[(0, 0), (top, bottom), (left, right), (0, 0)] = around.as_slice() {
        file.value(from)?;
        return file.set(operator, 0, State::Padded(from, Pads { top, left, bottom, right }));
    }
    let mut before = [0; 4];
    before[4 - rank..].iter_mut().zip(&around).for_each(|(before, around)| *before = around.0);
    let input = file.natural(from)?;
    let value = file.emit(operator, Op::Pad { before }, &[input], dims_of(&expected.unwrap_or_default()), quantization);
    file.yields(operator, value)
}

/// The part of a tensor that begins at `start` of each axis, as large as `sizes`.
fn part(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    from: usize,
    (start, sizes, step): (&[usize], &[usize], &[usize]),
) -> Result<ValueId, TfliteError> {
    let quantization = file.shared(operator, from, operator.output(0)?)?;
    if file.shape(from).len() > 4 {
        return Err(operator.refuse("a part of more than four axes is not read; reshape to four"));
    }
    let (mut starts, mut steps) = ([0; 4], [1; 4]);
    let before = 4 - start.len();
    starts[before..].copy_from_slice(start);
    steps[before..].copy_from_slice(step);
    let input = file.natural(from)?;
    Ok(file.emit(operator, Op::Slice { start: starts, step: steps }, &[input], dims_of(sizes), quantization))
}

pub(super) fn split(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let from = operator.input(1)?;
    let shape = file.shape(from).to_vec();
    let [axis] = file.integers(operator.input(0)?)?[..] else { return Err(operator.refuse("it needs one axis")) };
    let (axis, parts) = (axis_of(operator, axis, shape.len())?, operator.outputs.len());
    if parts == 0 || !shape[axis].is_multiple_of(parts) {
        return Err(operator.refuse(format!("{} cannot be split into {parts} equal parts", shape[axis])));
    }
    for place in 0..parts {
        let (mut start, mut sizes) = (vec![0; shape.len()], shape.clone());
        sizes[axis] /= parts;
        start[axis] = place * sizes[axis];
        file.shared(operator, from, operator.output(place)?)?;
        let value = part(file, operator, from, (&start, &sizes, &vec![1; shape.len()]))?;
        file.set(operator, place, State::Bytes(value))?;
    }
    Ok(())
}

pub(super) fn slice(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let from = operator.input(0)?;
    let shape = file.shape(from).to_vec();
    let (begins, sizes) = (file.integers(operator.input(1)?)?, file.integers(operator.input(2)?)?);
    let refuse = || operator.refuse(format!("the part from {begins:?} of {sizes:?} is not inside of {shape:?}"));
    if begins.len() != shape.len() || sizes.len() != shape.len() {
        return Err(refuse());
    }
    let (mut start, mut taken) = (Vec::new(), Vec::new());
    for ((&begin, &size), &all) in begins.iter().zip(&sizes).zip(&shape) {
        let begin = usize::try_from(begin).ok().filter(|&begin| begin <= all).ok_or_else(refuse)?;
        // -1 is all that is left.
        let size = if size == -1 { all - begin } else { usize::try_from(size).map_err(|_| refuse())? };
        start.push(begin);
        taken.push(size);
    }
    let value = part(file, operator, from, (&start, &taken, &vec![1; shape.len()]))?;
    file.yields(operator, value)
}

pub(super) fn strided_slice(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::StridedSlice)?;
    let mask = |number: usize| options.integer(number);
    let (no_begin, no_end, ellipsis, new_axes, single) = (mask(0)?, mask(1)?, mask(2)?, mask(3)?, mask(4)?);
    let from = operator.input(0)?;
    let shape = file.shape(from).to_vec();
    let list = |place: usize| file.integers(operator.input(place)?);
    let (begins, ends, strides) = (list(1)?, list(2)?, list(3)?);
    let given = begins.len();
    if ellipsis != 0 || new_axes != 0 || options.flag(5)? || given > shape.len() {
        return Err(operator.refuse("an ellipsis or new axes are not read"));
    }
    if ends.len() != given || strides.len() != given || strides.iter().any(|&stride| stride < 1) {
        return Err(operator.refuse(format!("strides of {strides:?} are not read: each axis needs one of 1 or more")));
    }
    let (mut start, mut sizes, mut step) = (vec![0; shape.len()], shape.clone(), vec![1; shape.len()]);
    for axis in 0..given {
        let (all, bit) = (shape[axis] as i64, 1 << axis);
        let place = |index: i64| (if index < 0 { index.saturating_add(all) } else { index }).clamp(0, all);
        let begin = if no_begin & bit != 0 { 0 } else { place(begins[axis]) };
        let end = match (single & bit != 0, no_end & bit != 0) {
            (true, _) => begin + 1,
            (false, true) => all,
            (false, false) => place(ends[axis]),
        };
        let taken = (end - begin).max(0).cast_unsigned().div_ceil(strides[axis].cast_unsigned());
        (start[axis], sizes[axis]) = (begin as usize, taken as usize);
        step[axis] = usize::try_from(strides[axis]).map_err(|_| operator.refuse("a stride is too large"))?;
    }
    let value = part(file, operator, from, (&start, &sizes, &step))?;
    file.yields(operator, value)
}

pub(super) fn concatenation(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::Concatenation)?;
    let output = operator.output(0)?;
    let (shape, to) = (file.shape(output).to_vec(), file.quantization(output)?);
    let axis = axis_of(operator, options.integer(0)?.into(), shape.len())?;
    let range = operator.activation(options.byte(1)?, to)?;
    // What lies before the axis, and behind it, is one each.
    let size = |sizes: &[usize]| sizes.iter().product::<usize>();
    let wide = shape.len() > 4;
    let (mut inputs, mut total) = (Vec::new(), 0_usize);
    for place in 0..operator.inputs.len() {
        let tensor = operator.input(place)?;
        let of = file.shape(tensor).to_vec();
        let fits = of.len() == shape.len() && (0..shape.len()).all(|other| other == axis || of[other] == shape[other]);
        if !fits {
            return Err(operator.refuse(format!("an input of {of:?} does not fit an output of {shape:?}")));
        }
        total += of[axis];
        let value = file.value(tensor)?;
        let flat = Dims::new(1, size(&of[..axis]), of[axis], size(&of[axis + 1..]));
        inputs.push(file.view(value, if wide { flat } else { dims_of(&of) }));
    }
    if total != shape[axis] {
        return Err(
            operator.refuse(format!("the inputs have {total} along axis {axis}, and the output {}", shape[axis]))
        );
    }
    let flat = Dims::new(1, size(&shape[..axis]), shape[axis], size(&shape[axis + 1..]));
    let (dims, axis) = if wide { (flat, 2) } else { (dims_of(&shape), 4 - shape.len() + axis) };
    let value = file.emit(operator, Op::Concat { axis }, &inputs, dims, to);
    let value = file.limit(operator, value, range);
    file.yields(operator, value)
}

/// A tensor repeated along one axis, block after block: its blocks are pixels of one row, repeated to the right.
pub(super) fn repeat(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    value: ValueId,
    axis: usize,
    times: usize,
) -> ValueId {
    let (found, quantization) = (file.graph.values[value.0].dims, file.graph.values[value.0].quantization);
    let mut sizes = found.array();
    let before = sizes[..axis].iter().product();
    let block = sizes[axis..].iter().product();
    let rows = file.view(value, Dims::new(1, before, 1, block));
    let op = Op::Upsample { factor: [1, times] };
    let wide = file.emit(operator, op, &[rows], Dims::new(1, before, times, block), quantization);
    // A product that does not fit is found by the graph's check.
    sizes[axis] = sizes[axis].saturating_mul(times);
    file.view(wide, dims(sizes))
}

pub(super) fn tile(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (from, to) = (operator.input(0)?, operator.output(0)?);
    file.shared(operator, from, to)?;
    let mut shape = file.shape(from).to_vec();
    let times = file.integers(operator.input(1)?)?;
    let mut value = file.value(from)?;
    if times.len() != shape.len() {
        return Err(operator.refuse(format!("{times:?} repetitions do not fit {shape:?}")));
    }
    for (axis, &count) in times.iter().enumerate().filter(|(_, count)| **count != 1) {
        let Some(count) = usize::try_from(count).ok().filter(|&count| count > 0) else {
            return Err(operator.refuse(format!("{count} repetitions are not possible")));
        };
        let size = |sizes: &[usize]| sizes.iter().product::<usize>();
        value = file.view(value, Dims::new(1, size(&shape[..axis]), 1, size(&shape[axis..])));
        value = repeat(file, operator, value, 2, count);
        shape[axis] = shape[axis].saturating_mul(count);
        if file.graph.values[value.0].dims.elements().is_none() {
            return Err(operator.refuse(format!("{times:?} repetitions are too many")));
        }
    }
    if shape != file.shape(to) {
        return Err(operator.refuse(format!("its output has the shape {:?}, and must have {shape:?}", file.shape(to))));
    }
    file.yields(operator, value)
}

pub(super) fn resize_nearest(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::ResizeNearestNeighbor)?;
    let (from, to) = (operator.input(0)?, operator.output(0)?);
    let quantization = file.shared(operator, from, to)?;
    let &[n, h, w, c] = file.shape(from) else { return Err(operator.refuse("its input must have four axes")) };
    let sizes = file.integers(operator.input(1)?)?;
    let [Ok(rows), Ok(columns)] = sizes.iter().map(|&size| usize::try_from(size)).collect::<Vec<_>>()[..] else {
        return Err(operator.refuse(format!("a size of {sizes:?} is not possible")));
    };
    let whole = h > 0 && w > 0 && rows.is_multiple_of(h) && columns.is_multiple_of(w) && rows > 0 && columns > 0;
    // With whole factors the pixel's corner and its middle choose the same pixel.
    if !whole || (options.flag(0)? && (rows, columns) != (h, w)) {
        let problem =
            format!("{h} by {w} to {rows} by {columns} is not read: use whole factors, without align_corners");
        return Err(operator.refuse(problem));
    }
    let input = file.natural(from)?;
    let op = Op::Upsample { factor: [rows / h, columns / w] };
    let value = file.emit(operator, op, &[input], Dims::new(n, rows, columns, c), quantization);
    file.yields(operator, value)
}
