//! Operators of two tensors, and the softmax.

use super::TfliteError;
use super::importer::Importer;
use super::layout::repeat;
use super::operator::Operator;
use super::schema::Kind;
use super::value::dims_of;
use sedge_engine::{Dims, Op, Quantization, Range, ValueId};

pub(super) fn add(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (one, two) = (file.natural(operator.input(0)?)?, file.natural(operator.input(1)?)?);
    let activation = operator.options(Kind::Add)?.byte(0)?;
    binary(file, operator, (one, two), activation, Op::Add)
}

/// The sum with the second turned round, which is exact: so is its zero point.
pub(super) fn subtract(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (one, two) = (file.natural(operator.input(0)?)?, file.natural(operator.input(1)?)?);
    let activation = operator.options(Kind::Sub)?.byte(0)?;
    let (dims, from) = (file.graph.values[two.0].dims, file.graph.values[two.0].quantization);
    let table = std::array::from_fn(|byte| 255 - byte as u8);
    let turned = Quantization { zero_point: 255 - from.zero_point, ..from };
    let two = file.emit(operator, Op::Table(Box::new(table)), &[two], dims, turned);
    binary(file, operator, (one, two), activation, Op::Add)
}

pub(super) fn multiply(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (one, two) = (file.natural(operator.input(0)?)?, file.natural(operator.input(1)?)?);
    let activation = operator.options(Kind::Mul)?.byte(0)?;
    binary(file, operator, (one, two), activation, Op::Mul)
}

pub(super) fn squared_difference(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let (one, two) = (file.natural(operator.input(0)?)?, file.natural(operator.input(1)?)?);
    binary(file, operator, (one, two), 0, |_| Op::SquaredDifference)
}

fn binary(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    (mut one, mut two): (ValueId, ValueId),
    activation: u8,
    op: impl FnOnce(Range) -> Op,
) -> Result<(), TfliteError> {
    let output = operator.output(0)?;
    let (dims, to) = (dims_of(file.shape(output)), file.quantization(output)?);
    let range = operator.activation(activation, to)?;
    let is = |file: &Importer<'_>, value: ValueId| file.graph.values[value.0].dims == dims;
    let known = |file: &Importer<'_>, value: ValueId| file.graph.values[value.0].constant.is_some();
    // The engine spreads the second over the first, and keeps what is known beforehand in the second.
    if !is(file, one) || (known(file, one) && is(file, two)) {
        (one, two) = (two, one);
    }
    let found = file.graph.values[one.0].dims;
    for (axis, (size, wanted)) in found.array().into_iter().zip(dims.array()).enumerate() {
        if size == 1 && wanted != 1 {
            one = repeat(file, operator, one, axis, wanted);
        }
    }
    let value = file.emit(operator, op(range), &[one, two], dims, to);
    file.yields(operator, value)
}

pub(super) fn matrices(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::BatchMatMul)?;
    let (turn_first, transposed) = (options.flag(0)?, options.flag(1)?);
    let to = file.quantization(operator.output(0)?)?;
    let (mut one, two) = (file.natural(operator.input(0)?)?, file.natural(operator.input(1)?)?);
    if turn_first {
        let (Dims { n, h, w, c }, from) = (file.graph.values[one.0].dims, file.graph.values[one.0].quantization);
        one = file.emit(operator, Op::Transpose { axes: [0, 1, 3, 2] }, &[one], Dims::new(n, h, c, w), from);
    }
    let (a, b) = (file.graph.values[one.0].dims, file.graph.values[two.0].dims);
    let dims = Dims { c: if transposed { b.w } else { b.c }, ..a };
    let value = file.emit(operator, Op::MatMul { transposed, range: Range::FULL }, &[one, two], dims, to);
    file.yields(operator, value)
}

pub(super) fn softmax(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let beta = operator.options(Kind::Softmax)?.real(0)?;
    let to = file.quantization(operator.output(0)?)?;
    let mut input = file.natural(operator.input(0)?)?;
    let (dims, from) = (file.graph.values[input.0].dims, file.graph.values[input.0].quantization);
    let scale = from.scale * beta;
    if !(scale.is_finite() && scale > 0.0) {
        return Err(operator.refuse(format!("beta is {beta}, and must be a number above 0")));
    }
    if beta != 1.0 {
        // The same bytes stand for values that are beta times as large.
        let same = Box::new(std::array::from_fn(|byte| byte as u8));
        input = file.emit(operator, Op::Table(same), &[input], dims, Quantization { scale, ..from });
    }
    let value = file.emit(operator, Op::Softmax, &[input], dims, to);
    file.softmax.insert(value, scale);
    file.yields(operator, value)
}
