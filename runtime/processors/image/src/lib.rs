//! Images to tensors: decode PNG and JPEG, convert, resize, normalise.
//!
//! ```toml
//! [preprocessor]
//! component = "builtin:image@1"  # or the image.wasm beside this crate
//! [preprocessor.config]
//! color = "rgb"                  # rgb, bgr or gray; default rgb
//! layout = "nchw"                # nchw or nhwc, how the model's input is laid out; default nchw
//! fit = "stretch"                # stretch, letterbox (keep the aspect, pad with 114) or crop (centre); default stretch
//! resize = "bilinear"            # bilinear, or area (the mean of the pixels covered; use it to shrink); default bilinear
//! levels = "fixed"               # fixed: value/255; stretch: darkest 0, brightest 1 in each image; raw: 0 to 255
//! mean = [0.485, 0.456, 0.406]   # subtracted after levels, one per channel or one for all; default none
//! std = [0.229, 0.224, 0.225]    # divided by after that; default none
//! pixels_max = 2097152           # larger images are refused before a byte is allocated for them
//! ```
//! An image of `pixels_max` pixels must fit into `limits.sandbox_memory_mib` when it is decoded, which takes up to 12
//! bytes a pixel: 2 Mpx (Full HD) fit into the default of 32 MiB, 12 Mpx need 160.
//!
//! Width, height, channels and element type are the model's. The context for the postprocessor is a JSON object with
//! the source size and where the picture lies in the tensor: `{"width","height","x","y","scale_x","scale_y"}`.

mod decode;
mod resize;

use decode::Pixels;
use sedge_processor_sdk::{
    ElementType, Error, Input, Meta, ModelInfo, Phase, Prepared, Preprocessor, Tensor, TensorSpec, export_preprocessor,
    mark, parse_config,
};
use serde::Deserialize;

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Color {
    Rgb,
    Bgr,
    Gray,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Layout {
    Nchw,
    Nhwc,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Fit {
    Stretch,
    Letterbox,
    Crop,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Filter {
    Bilinear,
    Area,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Levels {
    Fixed,
    Stretch,
    Raw,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    color: Color,
    layout: Layout,
    fit: Fit,
    resize: Filter,
    levels: Levels,
    mean: Vec<f32>,
    std: Vec<f32>,
    pixels_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            color: Color::Rgb,
            layout: Layout::Nchw,
            fit: Fit::Stretch,
            resize: Filter::Bilinear,
            levels: Levels::Fixed,
            mean: Vec::new(),
            std: Vec::new(),
            pixels_max: 1 << 21,
        }
    }
}

/// Grey that letterboxing pads with, as the YOLO family expects.
const PAD: f32 = 114.0;
/// Contrast in 8-bit levels below which an image counts as flat and stretches to nothing.
const FLAT: f32 = 1.0;

/// The preprocessor; see the crate's documentation.
pub struct Image {
    config: Config,
    spec: TensorSpec,
    width: usize,
    height: usize,
    channels: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Preprocessor for Image {
    fn configure(config: &str, model: &ModelInfo) -> Result<Self, Error> {
        let config: Config = parse_config(config)?;
        let spec = model.single_input()?.clone();
        let shape = spec.fixed_shape()?;
        let dims = match (shape.as_slice(), config.layout) {
            (&[1, c, h, w], Layout::Nchw) | (&[1, h, w, c], Layout::Nhwc) => Some((c, h, w)),
            _ => None,
        };
        let channels = if config.color == Color::Gray { 1 } else { 3 };
        let (height, width) = match dims {
            Some((c, h, w)) if c == channels && h > 0 && w > 0 => (h as usize, w as usize),
            _ => {
                return Err(Error::InvalidConfig(format!(
                    "the model's input {} has shape {shape:?}; color and layout ask for {}",
                    spec.name,
                    match config.layout {
                        Layout::Nchw => format!("[1, {channels}, height, width]"),
                        Layout::Nhwc => format!("[1, height, width, {channels}]"),
                    }
                )));
            }
        };
        // Bytes that take pixels as they are need no scale; everything else has to be a real value first.
        if !(spec.ty == ElementType::Uint8 && config.levels == Levels::Raw) {
            spec.require_real()?;
        }
        let channels = channels as usize;
        let mean = per_channel("mean", &config.mean, channels, 0.0)?;
        let std = per_channel("std", &config.std, channels, 1.0)?;
        if std.contains(&0.0) {
            return Err(Error::InvalidConfig("std holds a 0, and is divided by".into()));
        }
        Ok(Self { config, spec, width, height, channels, mean, std })
    }

    fn process(&mut self, _meta: &Meta, input: &Input<'_>) -> Result<Option<Prepared>, Error> {
        let Input::Image(frame) = input else {
            return Err(Error::Unsupported(format!("this processor takes images, the sample is {}", input.kind())));
        };
        let pixels = decode::decode(frame, self.config.color == Color::Gray, self.config.pixels_max)?;
        mark(Phase::Decoded);
        let placed = self.place(&pixels);
        let (mut planes, filled) = resize::resize(&pixels, &placed, self.width, self.height, self.config.resize, PAD);
        drop(pixels.data);
        self.normalise(&mut planes, &filled);
        let values = self.arrange(planes);
        let context = format!(
            r#"{{"width":{},"height":{},"x":{},"y":{},"scale_x":{},"scale_y":{}}}"#,
            pixels.width, pixels.height, placed.x, placed.y, placed.scale_x, placed.scale_y
        );
        Ok(Some(Prepared { tensors: vec![Tensor::from_real(&self.spec, &values)?], context }))
    }
}

impl Image {
    /// Where the picture lies in the tensor: tensor = picture * scale + offset.
    fn place(&self, pixels: &Pixels) -> resize::Placed {
        let (scale_x, scale_y) = (self.width as f32 / pixels.width as f32, self.height as f32 / pixels.height as f32);
        let uniform = match self.config.fit {
            Fit::Stretch => return resize::Placed { x: 0.0, y: 0.0, scale_x, scale_y },
            Fit::Letterbox => scale_x.min(scale_y),
            Fit::Crop => scale_x.max(scale_y),
        };
        resize::Placed {
            x: (self.width as f32 - pixels.width as f32 * uniform) / 2.0,
            y: (self.height as f32 - pixels.height as f32 * uniform) / 2.0,
            scale_x: uniform,
            scale_y: uniform,
        }
    }

    /// Levels, then mean and std. `planes` holds one plane after the other; the picture fills a part of each.
    fn normalise(&self, planes: &mut [f32], filled: &resize::Filled) {
        match self.config.levels {
            Levels::Raw => {}
            Levels::Fixed => planes.iter_mut().for_each(|v| *v /= 255.0),
            Levels::Stretch => {
                // The picture alone says what is dark and bright; padding takes its place between them.
                let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
                for line in planes.chunks_exact(self.width * self.height).flat_map(|p| filled.lines(p, self.width)) {
                    min = line.iter().copied().fold(min, f32::min);
                    max = line.iter().copied().fold(max, f32::max);
                }
                let range = max - min;
                let stretch = |v: f32| if range < FLAT { 0.0 } else { ((v - min) / range).clamp(0.0, 1.0) };
                planes.iter_mut().for_each(|v| *v = stretch(*v));
            }
        }
        if self.config.mean.is_empty() && self.config.std.is_empty() {
            return;
        }
        for (c, plane) in planes.chunks_exact_mut(self.width * self.height).enumerate() {
            plane.iter_mut().for_each(|v| *v = (*v - self.mean[c]) / self.std[c]);
        }
    }

    /// Planes in r, g, b order to the model's layout and channel order.
    fn arrange(&self, planes: Vec<f32>) -> Vec<f32> {
        let size = self.width * self.height;
        let plane = |c: usize| if self.config.color == Color::Bgr { self.channels - 1 - c } else { c };
        match (self.config.layout, self.config.color) {
            (_, Color::Gray) | (Layout::Nchw, Color::Rgb) => planes,
            (Layout::Nchw, Color::Bgr) => {
                (0..self.channels).flat_map(|c| planes[plane(c) * size..][..size].iter().copied()).collect()
            }
            (Layout::Nhwc, _) => (0..size)
                .flat_map(|i| (0..self.channels).map(move |c| (i, c)))
                .map(|(i, c)| planes[plane(c) * size + i])
                .collect(),
        }
    }
}

/// One value per channel from a setting that gives none, one or all of them. Means and deviations are given in the
/// order red, green, blue, whatever `color` is.
fn per_channel(name: &str, given: &[f32], channels: usize, default: f32) -> Result<Vec<f32>, Error> {
    match given {
        [] => Ok(vec![default; channels]),
        all if all.iter().any(|v| !v.is_finite()) => Err(Error::InvalidConfig(format!("{name} holds {all:?}"))),
        [one] => Ok(vec![*one; channels]),
        all if all.len() == channels => Ok(all.to_vec()),
        all => Err(Error::InvalidConfig(format!("{name} has {} values for {channels} channels", all.len()))),
    }
}

export_preprocessor!(Image);

#[cfg(test)]
mod tests;
