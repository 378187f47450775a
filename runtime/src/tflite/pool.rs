//! Pools and means.

use super::TfliteError;
use super::conv::{Geometry, unpadded};
use super::importer::Importer;
use super::layout::axis_of;
use super::operator::Operator;
use super::schema::Kind;
use super::value::{State, dims_of};
use sedge_engine::{Dims, Op, Pads, Window};

pub(super) fn average(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    pool(file, operator, |window| Op::AveragePool { window, include_pads: false })
}

pub(super) fn max(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let tensor = operator.input(0)?;
    // Padding never counts in the engine. Of the lowest byte, as behind a Relu, it never counts in TFLite either.
    if matches!(file.state(tensor), State::Padded(..)) && file.quantization(tensor)?.zero_point > 0 {
        file.value(tensor)?;
    }
    pool(file, operator, Op::MaxPool)
}

fn pool(file: &mut Importer<'_>, operator: &Operator<'_>, op: impl FnOnce(Window) -> Op) -> Result<(), TfliteError> {
    let options = operator.options(Kind::Pool2d)?;
    let (from, to) = (operator.input(0)?, operator.output(0)?);
    let quantization = file.shared(operator, from, to)?;
    let geometry = Geometry {
        same: options.byte(0)? == 0,
        kernel: [options.pixels(4, 0)?, options.pixels(3, 0)?],
        stride: [options.pixels(2, 0)?, options.pixels(1, 0)?],
        dilation: [1, 1],
    };
    if file.shape(from).len() != 4 {
        return Err(operator.refuse(format!("its input has the shape {:?}; four axes are needed", file.shape(from))));
    }
    let average = operator.name.starts_with("AVERAGE");
    let (input, around) = if average { (file.natural(from)?, Pads::default()) } else { unpadded(file, from)? };
    let dims = file.graph.values[input.0].dims;
    let (window, [h, w]) = geometry.over(operator, dims, around)?;
    let value = file.emit(operator, op(window), &[input], Dims { h, w, ..dims }, quantization);
    let range = operator.activation(options.byte(5)?, quantization)?;
    let value = file.limit(operator, value, range);
    file.yields(operator, value)
}

/// The mean over axes that lie side by side, which is one window.
pub(super) fn mean(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    operator.options(Kind::Reducer)?;
    let (from, to) = (operator.input(0)?, file.quantization(operator.output(0)?)?);
    let shape = file.shape(from).to_vec();
    let mut axes = Vec::new();
    for axis in file.integers(operator.input(1)?)? {
        axes.push(axis_of(operator, axis, shape.len())?);
    }
    axes.sort_unstable();
    axes.dedup();
    let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
        return Err(operator.refuse("it names no axis"));
    };
    if last - first + 1 != axes.len() {
        return Err(operator.refuse(format!("the mean over the axes {axes:?} is not read: they must be neighbours")));
    }
    let (dims, kernel) = if shape.len() == 4 && axes == [1, 2] {
        (dims_of(&shape), [shape[1], shape[2]])
    } else {
        let size = |sizes: &[usize]| sizes.iter().product::<usize>();
        let reduced = size(&shape[first..=last]);
        (Dims::new(size(&shape[..first]), 1, reduced, size(&shape[last + 1..])), [1, reduced])
    };
    let value = file.value(from)?;
    let input = file.view(value, dims);
    let window = Window { kernel, stride: [1, 1], dilation: [1, 1], pads: Pads::default() };
    let op = Op::AveragePool { window, include_pads: false };
    let value = file.emit(operator, op, &[input], Dims { h: 1, w: 1, ..dims }, to);
    file.yields(operator, value)
}
