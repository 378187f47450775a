//! Pictures: a confusion matrix as PNG.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _, point};
use anyhow::{Context as _, Result};
use std::io::BufWriter;
use std::path::Path;

/// Inter Medium, the printable ASCII part; see Inter-LICENSE.txt beside it.
const FONT: &[u8] = include_bytes!("../assets/Inter-Medium-subset.otf");

type Color = [u8; 3];
const PAPER: Color = [255, 255, 255];
const INK: Color = [31, 41, 55];
const SOFT: Color = [107, 114, 128];
const RIGHT: Color = [13, 110, 92];
const WRONG: Color = [194, 65, 12];
const EMPTY: Color = [244, 245, 247];

const CELL: i32 = 64;
const GAP: i32 = 3;
const LEFT: i32 = 110;
const TOP: i32 = 150;
const MARGIN: i32 = 40;

struct Canvas {
    width: i32,
    height: i32,
    pixels: Vec<u8>,
    font: FontRef<'static>,
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Centre,
    Right,
}

impl Canvas {
    fn new(width: i32, height: i32) -> Result<Self> {
        let font = FontRef::try_from_slice(FONT).context("the font inside this program is damaged")?;
        Ok(Self { width, height, pixels: PAPER.repeat((width * height) as usize), font })
    }

    fn blend(&mut self, x: i32, y: i32, color: Color, coverage: f32) {
        if x < 0 || y < 0 || x >= self.width || y >= self.height {
            return;
        }
        let i = (y * self.width + x) as usize * 3;
        for (pixel, channel) in self.pixels[i..i + 3].iter_mut().zip(color) {
            *pixel = (f32::from(*pixel) + (f32::from(channel) - f32::from(*pixel)) * coverage.clamp(0.0, 1.0)) as u8;
        }
    }

    fn rectangle(&mut self, x: i32, y: i32, width: i32, height: i32, color: Color) {
        for (y, x) in (y..y + height).flat_map(|y| (x..x + width).map(move |x| (y, x))) {
            self.blend(x, y, color, 1.0);
        }
    }

    /// `y` is the middle of the line.
    fn text(&mut self, x: i32, y: i32, size: f32, align: Align, color: Color, text: &str) {
        let font = self.font.clone();
        let scaled = font.as_scaled(PxScale::from(size));
        let width: f32 = text.chars().map(|c| scaled.h_advance(scaled.glyph_id(c))).sum();
        let mut x = x as f32
            - match align {
                Align::Left => 0.0,
                Align::Centre => width / 2.0,
                Align::Right => width,
            };
        // Digits and capitals reach about 0.7 of the size above the baseline.
        let baseline = y as f32 + size * 0.3;
        for c in text.chars() {
            let id = scaled.glyph_id(c);
            let glyph = id.with_scale_and_position(size, point(x, baseline));
            if let Some(outline) = font.outline_glyph(glyph) {
                let bounds = outline.px_bounds();
                outline.draw(|px, py, coverage| {
                    self.blend(bounds.min.x as i32 + px as i32, bounds.min.y as i32 + py as i32, color, coverage);
                });
            }
            x += scaled.h_advance(id);
        }
    }

    fn save(&self, path: &Path) -> Result<()> {
        let place = || format!("{} cannot be written", path.display());
        let file = BufWriter::new(std::fs::File::create(path).with_context(place)?);
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().and_then(|mut w| w.write_image_data(&self.pixels)).with_context(place)
    }
}

fn mix(from: Color, to: Color, share: f32) -> Color {
    std::array::from_fn(|i| (f32::from(from[i]) + (f32::from(to[i]) - f32::from(from[i])) * share) as u8)
}

/// Draws how often each class (row) was taken for each class (column).
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn confusion_matrix(
    path: &Path,
    title: &str,
    subtitle: &str,
    labels: &[String],
    counts: &[Vec<usize>],
) -> Result<()> {
    let n = labels.len() as i32;
    let side = n * CELL;
    let mut canvas = Canvas::new((LEFT + side + MARGIN).max(620), TOP + side + MARGIN)?;
    canvas.text(MARGIN, 44, 30.0, Align::Left, INK, title);
    canvas.text(MARGIN, 78, 18.0, Align::Left, SOFT, subtitle);
    canvas.text(LEFT + side / 2, TOP - 40, 16.0, Align::Centre, SOFT, "predicted");
    canvas.text(MARGIN, TOP + side / 2, 16.0, Align::Left, SOFT, "true");
    for (i, label) in labels.iter().enumerate() {
        let middle = i as i32 * CELL + CELL / 2;
        canvas.text(LEFT + middle, TOP - 16, 20.0, Align::Centre, INK, label);
        canvas.text(LEFT - 14, TOP + middle, 20.0, Align::Right, INK, label);
    }
    for (row, counts) in counts.iter().enumerate() {
        let total = counts.iter().sum::<usize>().max(1);
        for (column, &count) in counts.iter().enumerate() {
            let share = count as f32 / total as f32;
            let strong = if row == column { RIGHT } else { WRONG };
            // One wrong answer among fifty must be seen, so colours start well above nothing.
            let color = if count == 0 { EMPTY } else { mix(EMPTY, strong, 0.25 + 0.75 * share.sqrt()) };
            let (x, y) = (LEFT + column as i32 * CELL, TOP + row as i32 * CELL);
            canvas.rectangle(x, y, CELL - GAP, CELL - GAP, color);
            if count > 0 {
                let ink = if share > 0.4 { PAPER } else { INK };
                canvas.text(x + (CELL - GAP) / 2, y + (CELL - GAP) / 2, 20.0, Align::Centre, ink, &count.to_string());
            }
        }
    }
    canvas.save(path)
}
