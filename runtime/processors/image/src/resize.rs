//! Separable resampling. Pixel centres are at half coordinates and the edge repeats, as in OpenCV; bilinear reads two
//! pixels along each axis, also where it shrinks.

use crate::Filter;
use crate::decode::Pixels;
use std::ops::Range;

/// Where the picture lies in the tensor: tensor = picture * scale + offset, in pixels.
pub(crate) struct Placed {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) scale_x: f32,
    pub(crate) scale_y: f32,
}

/// The part of a plane that the picture fills.
pub(crate) struct Filled {
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Filled {
    fn of(columns: &[Taps], rows: &[Taps]) -> Self {
        let range = |taps: &[Taps]| {
            let first = taps.iter().position(|t| !t.weights.is_empty()).unwrap_or(0);
            first..taps.iter().rposition(|t| !t.weights.is_empty()).map_or(first, |last| last + 1)
        };
        Self { columns: range(columns), rows: range(rows) }
    }

    /// Its lines within a plane.
    pub(crate) fn lines<'a>(&self, plane: &'a [f32], width: usize) -> impl Iterator<Item = &'a [f32]> {
        let columns = self.columns.clone();
        self.rows.clone().map(move |y| &plane[y * width..][columns.clone()])
    }
}

/// The source pixels that make up one output pixel along one axis; none where the output lies in the padding.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resamples into planes of `width * height` values from 0 to 255, one plane per channel, and tells which part of each
/// is picture.
pub(crate) fn resize(
    pixels: &Pixels,
    placed: &Placed,
    width: usize,
    height: usize,
    filter: Filter,
    pad: f32,
) -> (Vec<f32>, Filled) {
    let columns = taps(pixels.width, width, placed.x, placed.scale_x, filter);
    let rows = taps(pixels.height, height, placed.y, placed.scale_y, filter);
    let channels = pixels.channels;
    let mut planes = vec![pad; channels * width * height];
    let row_length = pixels.width * channels;
    let mut line = vec![0.0f32; row_length];
    for (y, row) in rows.iter().enumerate() {
        if row.weights.is_empty() {
            continue;
        }
        // Rows first, in f32 and in order, so that every target rounds alike. The channels stay interleaved: one
        // dense loop, which vectorises.
        line.fill(0.0);
        for (k, weight) in row.weights.iter().enumerate() {
            let source = &pixels.data[(row.first + k) * row_length..][..row_length];
            for (sum, pixel) in line.iter_mut().zip(source) {
                *sum += weight * f32::from(*pixel);
            }
        }
        for c in 0..channels {
            let out = &mut planes[(c * height + y) * width..][..width];
            for (value, column) in out.iter_mut().zip(&columns) {
                if let Some((first, rest)) = column.weights.split_first() {
                    let source = &line[column.first * channels + c..];
                    let others = source.iter().step_by(channels).skip(1).zip(rest);
                    *value = others.fold(source[0] * first, |sum, (s, w)| sum + s * w);
                }
            }
        }
    }
    (planes, Filled::of(&columns, &rows))
}

fn taps(source: usize, target: usize, offset: f32, scale: f32, filter: Filter) -> Vec<Taps> {
    (0..target).map(|i| one(i, source, offset, scale, filter)).collect()
}

fn one(i: usize, source: usize, offset: f32, scale: f32, filter: Filter) -> Taps {
    let none = Taps { first: 0, weights: Vec::new() };
    let centre = (i as f32 + 0.5 - offset) / scale;
    if centre < 0.0 || centre >= source as f32 {
        return none;
    }
    if filter == Filter::Area && scale < 1.0 {
        let (from, to) = ((i as f32 - offset) / scale, (i as f32 + 1.0 - offset) / scale);
        let (from, to) = (from.max(0.0), to.min(source as f32));
        let first = from as usize;
        let last = (to.ceil() as usize).min(source);
        let mut weights: Vec<f32> =
            (first..last).map(|s| (to.min(s as f32 + 1.0) - from.max(s as f32)).max(0.0)).collect();
        let total: f32 = weights.iter().sum();
        if total <= 0.0 {
            return none;
        }
        weights.iter_mut().for_each(|w| *w /= total);
        return Taps { first, weights };
    }
    let position = (centre - 0.5).clamp(0.0, (source - 1) as f32);
    let first = position as usize;
    let fraction = position - first as f32;
    let weights = if first + 1 < source { vec![1.0 - fraction, fraction] } else { vec![1.0] };
    Taps { first, weights }
}
