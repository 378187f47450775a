//! Functions of one value. Of 8 bits they are tables; between a DEQUANTIZE and a QUANTIZE they are put together into
//! one.

use super::TfliteError;
use super::importer::Importer;
use super::operator::Operator;
use super::schema::{Kind, element};
use super::value::State;
use sedge_engine::{Op, ValueId};

/// To 8 bits: of the model's float input, of reals, or of another quantization.
pub(super) fn quantize(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let input = operator.input(0)?;
    let to = file.quantization(operator.output(0)?)?;
    match file.state(input).clone() {
        State::FloatInput(place) => {
            let value = file.enter_float(operator, place, to)?;
            file.yields(operator, value)
        }
        State::Real(value, reals) => tabulate(file, operator, value, &reals),
        _ => {
            let value = file.value(input)?;
            let from = file.graph.values[value.0].quantization;
            if from == to {
                return file.yields(operator, value);
            }
            let table = Op::Table(Box::new(sedge_engine::table(from, to)));
            let dims = file.graph.values[value.0].dims;
            let value = file.emit(operator, table, &[value], dims, to);
            file.yields(operator, value)
        }
    }
}

pub(super) fn dequantize(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let output = operator.output(0)?;
    if file.tensor(output).element != element::FLOAT32 {
        return Err(file.refuse(output, "only float32 can be dequantized to"));
    }
    let (value, reals) = reals(file, operator)?;
    file.set(operator, 0, State::Real(value, reals))
}

pub(super) fn function(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let function = named(operator)?;
    let (value, mut reals) = reals(file, operator)?;
    reals.iter_mut().for_each(|real| *real = function(f64::from(*real)) as f32);
    if file.tensor(operator.output(0)?).element == element::FLOAT32 {
        return file.set(operator, 0, State::Real(value, reals));
    }
    tabulate(file, operator, value, &reals)
}

/// What each byte of the input stands for.
fn reals(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(ValueId, Box<[f32; 256]>), TfliteError> {
    let input = operator.input(0)?;
    if let State::Real(value, reals) = file.state(input) {
        return Ok((*value, reals.clone()));
    }
    let value = file.value(input)?;
    let from = file.graph.values[value.0].quantization;
    Ok((value, Box::new(std::array::from_fn(|byte| sedge_engine::dequantize(byte as u8, from)))))
}

fn tabulate(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    value: ValueId,
    reals: &[f32; 256],
) -> Result<(), TfliteError> {
    let to = file.quantization(operator.output(0)?)?;
    let table = reals.map(|real| sedge_engine::quantize(real, to));
    let dims = file.graph.values[value.0].dims;
    let value = file.emit(operator, Op::Table(Box::new(table)), &[value], dims, to);
    file.yields(operator, value)
}

/// The function of an operator, in double precision: a table is made once and shall not depend on the machine.
fn named(operator: &Operator<'_>) -> Result<Box<dyn Fn(f64) -> f64>, TfliteError> {
    let plain = |function: fn(f64) -> f64| -> Box<dyn Fn(f64) -> f64> { Box::new(function) };
    Ok(match operator.name.as_ref() {
        "ABS" => plain(f64::abs),
        "NEG" => plain(|x| -x),
        "EXP" => plain(f64::exp),
        "SQRT" => plain(f64::sqrt),
        "SQUARE" => plain(|x| x * x),
        "RSQRT" => plain(|x| 1.0 / x.sqrt()),
        "ELU" => plain(|x| if x < 0.0 { x.exp_m1() } else { x }),
        "RELU" => plain(|x| x.max(0.0)),
        "RELU6" => plain(|x| x.clamp(0.0, 6.0)),
        "RELU_0_TO_1" => plain(|x| x.clamp(0.0, 1.0)),
        "RELU_N1_TO_1" => plain(|x| x.clamp(-1.0, 1.0)),
        "LOGISTIC" => plain(|x| 1.0 / (1.0 + (-x).exp())),
        "TANH" => plain(f64::tanh),
        "HARD_SWISH" => plain(|x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0),
        "LEAKY_RELU" => {
            let alpha = f64::from(operator.options(Kind::LeakyRelu)?.real(0)?);
            Box::new(move |x| if x < 0.0 { alpha * x } else { x })
        }
        "GELU" if operator.options(Kind::Gelu)?.flag(0)? => plain(|x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }),
        "GELU" => plain(|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))),
        _ => return Err(operator.refuse("it is not read")),
    })
}

/// The error function, by its series of terms of one sign, which loses no digits.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        for (x, expected) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (3.0, 0.999_977_909_5)] {
            assert!((erf(x) - expected).abs() < 1e-9 && (erf(-x) + expected).abs() < 1e-9, "{x}");
        }
        assert!((erf(5.9) - 1.0).abs() < 1e-12 && erf(7.0) == 1.0);
    }
}
