//! Pixels of a frame as 8-bit gray or RGB, whatever it came as.

use sedge_processor_sdk::{Error, ImageFrame, PixelFormat};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

/// Interleaved 8-bit pixels without padding: 1 channel (gray) or 3 (red, green, blue).
pub(crate) struct Pixels {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) channels: usize,
    pub(crate) data: Vec<u8>,
}

/// Decodes or converts a frame. No memory is allocated for an image of more than `pixels_max` pixels.
pub(crate) fn decode(frame: &ImageFrame<'_>, gray: bool, pixels_max: u64) -> Result<Pixels, Error> {
    let pixels = match frame.format {
        PixelFormat::Png => png(frame.data, pixels_max)?,
        PixelFormat::Jpeg => jpeg(frame.data, pixels_max)?,
        _ => raw(frame, pixels_max)?,
    };
    Ok(if gray == (pixels.channels == 1) {
        pixels
    } else if gray {
        Pixels { channels: 1, data: narrow(pixels.data, |[r, g, b]| [luma([r, g, b])]), ..pixels }
    } else {
        Pixels { channels: 3, data: pixels.data.iter().flat_map(|&v| [v; 3]).collect(), ..pixels }
    })
}

/// Turns pixels of `N` bytes into pixels of `M` in place: a second copy of a large image might not fit into the sandbox.
fn narrow<const N: usize, const M: usize>(mut data: Vec<u8>, pixel: impl Fn([u8; N]) -> [u8; M]) -> Vec<u8> {
    const { assert!(M <= N, "a wider pixel would run over those to come") };
    let pixels = data.len() / N;
    for i in 0..pixels {
        let mut wide = [0; N];
        wide.copy_from_slice(&data[i * N..][..N]);
        data[i * M..][..M].copy_from_slice(&pixel(wide));
    }
    data.truncate(pixels * M);
    data
}

/// Luma of ITU-R BT.601, in integers so that it is the same everywhere.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8
}

fn check_size(width: u64, height: u64, pixels_max: u64) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::InvalidInput(format!("the image is {width} x {height} pixels")));
    }
    if width.saturating_mul(height) > pixels_max {
        return Err(Error::InvalidInput(format!(
            "the image is {width} x {height} pixels, more than pixels_max = {pixels_max}; send a smaller one or raise the limit"
        )));
    }
    Ok(())
}

/// What the PNG decoder may take beside the picture: its rows and ancillary chunks.
const PNG_BYTES_MAX: usize = 4 << 20;

fn png(data: &[u8], pixels_max: u64) -> Result<Pixels, Error> {
    let invalid = |e: png::DecodingError| Error::InvalidInput(format!("not a readable PNG: {e}"));
    let mut decoder = png::Decoder::new_with_limits(std::io::Cursor::new(data), png::Limits { bytes: PNG_BYTES_MAX });
    // Nothing here reads them, and a small file can hold large ones.
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(invalid)?;
    check_size(header.width.into(), header.height.into(), pixels_max)?;
    let mut reader = decoder.read_info().map_err(invalid)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| Error::InvalidInput("the PNG is too large for this machine's addresses".into()))?;
    let mut data = vec![0; size];
    let info = reader.next_frame(&mut data).map_err(invalid)?;
    data.truncate(info.buffer_size());
    // Alpha is dropped, not blended: models are trained on what the camera saw.
    let (channels, data) = match info.color_type {
        png::ColorType::Grayscale => (1, data),
        png::ColorType::GrayscaleAlpha => (1, narrow(data, |[v, _]| [v])),
        png::ColorType::Rgb => (3, data),
        png::ColorType::Rgba => (3, narrow(data, |[r, g, b, _]| [r, g, b])),
        png::ColorType::Indexed => return Err(Error::Internal("a palette was not expanded".into())),
    };
    Ok(Pixels { width: info.width as usize, height: info.height as usize, channels, data })
}

fn jpeg(data: &[u8], pixels_max: u64) -> Result<Pixels, Error> {
    let invalid = |e: zune_jpeg::errors::DecodeErrors| Error::InvalidInput(format!("not a readable JPEG: {e}"));
    let options = DecoderOptions::default()
        .set_max_width(1 << 16)
        .set_max_height(1 << 16)
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(data), options);
    decoder.decode_headers().map_err(invalid)?;
    let info = decoder.info().ok_or_else(|| Error::InvalidInput("not a readable JPEG: no frame header".into()))?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(width as u64, height as u64, pixels_max)?;
    let data = decoder.decode().map_err(invalid)?;
    if data.len() != width * height * 3 {
        return Err(Error::InvalidInput(format!(
            "the JPEG decodes to {} bytes for {width} x {height} pixels",
            data.len()
        )));
    }
    Ok(Pixels { width, height, channels: 3, data })
}

fn raw(frame: &ImageFrame<'_>, pixels_max: u64) -> Result<Pixels, Error> {
    check_size(frame.width.into(), frame.height.into(), pixels_max)?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    let bytes_per_row = match frame.format {
        PixelFormat::Gray8 | PixelFormat::Nv12 => width,
        PixelFormat::Yuyv => width * 2,
        PixelFormat::Rgba8 => width * 4,
        _ => width * 3,
    };
    if matches!(frame.format, PixelFormat::Nv12 | PixelFormat::Yuyv) && (width % 2 != 0 || height % 2 != 0) {
        return Err(Error::InvalidInput(format!(
            "{:?} frames have even sizes, this one is {width} x {height}",
            frame.format
        )));
    }
    let stride = frame.stride as usize;
    let rows = if frame.format == PixelFormat::Nv12 { height + height / 2 } else { height };
    // The last row need not be padded.
    let needed = stride.checked_mul(rows - 1).and_then(|n| n.checked_add(bytes_per_row));
    if stride < bytes_per_row || needed.is_none_or(|n| n > frame.data.len()) {
        return Err(Error::InvalidInput(format!(
            "a {width} x {height} {:?} frame with stride {stride} does not fit its {} bytes",
            frame.format,
            frame.data.len()
        )));
    }
    let row = |y: usize| &frame.data[y * stride..][..bytes_per_row];
    let lines = 0..height;
    let (channels, data): (usize, Vec<u8>) = match frame.format {
        PixelFormat::Gray8 => (1, lines.flat_map(row).copied().collect()),
        PixelFormat::Bgr8 => (
            3,
            lines.flat_map(row).copied().collect::<Vec<_>>().chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect(),
        ),
        PixelFormat::Rgba8 => {
            (3, lines.flat_map(|y| row(y).chunks_exact(4)).flat_map(|p| [p[0], p[1], p[2]]).collect())
        }
        PixelFormat::Yuyv => (
            3,
            lines
                .flat_map(|y| row(y).chunks_exact(4))
                .flat_map(|p| [yuv(p[0], p[1], p[3]), yuv(p[2], p[1], p[3])])
                .flatten()
                .collect(),
        ),
        PixelFormat::Nv12 => {
            let pixel = |x: usize, y: usize| {
                let chroma = &row(height + y / 2)[x / 2 * 2..][..2];
                yuv(row(y)[x], chroma[0], chroma[1])
            };
            (3, lines.flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect())
        }
        _ => (3, lines.flat_map(row).copied().collect()),
    };
    Ok(Pixels { width, height, channels, data })
}

/// Limited-range BT.601 to RGB, in 16.16 integers.
fn yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = (76_309 * (i32::from(y) - 16), i32::from(u) - 128, i32::from(v) - 128);
    let channel = |chroma: i32| ((y + chroma + 32_768) >> 16).clamp(0, 255) as u8;
    [channel(104_597 * v), channel(-25_675 * u - 53_279 * v), channel(132_201 * u)]
}
