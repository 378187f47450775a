use super::*;
use sedge_processor_sdk::{ElementType, ImageFrame, PixelFormat, Quantization};

fn model(shape: &[i32], ty: ElementType, quantization: Option<Quantization>) -> ModelInfo {
    ModelInfo {
        name: "m".into(),
        version: "1.0.0".into(),
        digest: String::new(),
        inputs: vec![TensorSpec { name: "x".into(), ty, shape: shape.to_vec(), quantization }],
        outputs: vec![],
        labels: vec![],
        confidence: None,
    }
}

fn frame(width: u32, height: u32, format: PixelFormat, stride: u32, data: &[u8]) -> Input<'_> {
    Input::Image(ImageFrame { width, height, stride, format, data })
}

fn run(config: &str, shape: &[i32], input: &Input<'_>) -> Result<Vec<f32>, Error> {
    let model = model(shape, ElementType::Float32, None);
    let prepared = Image::configure(config, &model)?.process(&Meta::default(), input)?.expect("one image, one tensor");
    prepared.tensors[0].view().to_real(None)
}

fn encode_png(width: u32, height: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![10, 20, 30, 200, 100, 50]);
    }
    encoder.write_header().and_then(|mut w| w.write_image_data(data)).expect("a valid image");
    out
}

#[test]
fn area_is_the_mean_of_the_pixels_covered() {
    let gray: Vec<u8> = (0..16).map(|i| i * 10).collect();
    let values = run(
        r#"{"color": "gray", "resize": "area", "levels": "raw"}"#,
        &[1, 1, 2, 2],
        &frame(4, 4, PixelFormat::Gray8, 4, &gray),
    );
    assert_eq!(values.expect("valid"), [25.0, 45.0, 105.0, 125.0]);
    let thirds = run(
        r#"{"color": "gray", "resize": "area", "levels": "raw"}"#,
        &[1, 1, 1, 2],
        &frame(3, 1, PixelFormat::Gray8, 3, &[30, 60, 120]),
    );
    assert_eq!(thirds.expect("valid"), [40.0, 100.0]);
}

#[test]
fn bilinear_repeats_the_edge() {
    let values =
        run(r#"{"color": "gray", "levels": "raw"}"#, &[1, 1, 1, 4], &frame(2, 1, PixelFormat::Gray8, 2, &[0, 100]));
    assert_eq!(values.expect("valid"), [0.0, 25.0, 75.0, 100.0]);
}

#[test]
fn levels_mean_and_std() {
    let input = frame(3, 1, PixelFormat::Gray8, 3, &[51, 102, 153]);
    let stretched = run(r#"{"color": "gray", "levels": "stretch"}"#, &[1, 1, 1, 3], &input).expect("valid");
    assert_eq!(stretched, [0.0, 0.5, 1.0]);
    let fixed = run(r#"{"color": "gray", "mean": [0.2], "std": [0.5]}"#, &[1, 1, 1, 3], &input).expect("valid");
    for (value, expected) in fixed.iter().zip([0.0, 0.4, 0.8]) {
        assert!((value - expected).abs() < 1e-6, "{fixed:?}");
    }
    let flat = frame(3, 1, PixelFormat::Gray8, 3, &[7, 7, 7]);
    assert_eq!(run(r#"{"color": "gray", "levels": "stretch"}"#, &[1, 1, 1, 3], &flat).expect("valid"), [0.0; 3]);
}

#[test]
fn layouts_and_channel_orders() {
    let rgb = [1, 2, 3, 4, 5, 6];
    let input = frame(2, 1, PixelFormat::Rgb8, 6, &rgb);
    let raw = |color: &str, layout: &str, shape: &[i32]| {
        run(&format!(r#"{{"color":"{color}","layout":"{layout}","levels":"raw"}}"#), shape, &input).expect("valid")
    };
    assert_eq!(raw("rgb", "nchw", &[1, 3, 1, 2]), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(raw("bgr", "nchw", &[1, 3, 1, 2]), [3.0, 6.0, 2.0, 5.0, 1.0, 4.0]);
    assert_eq!(raw("rgb", "nhwc", &[1, 1, 2, 3]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(raw("bgr", "nhwc", &[1, 1, 2, 3]), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
}

#[test]
fn every_pixel_format_gives_the_same_colour() {
    let config = r#"{"levels": "raw"}"#;
    let shape = [1, 3, 2, 2];
    let rgb = [200u8, 100, 50].repeat(4);
    let bgr = [50u8, 100, 200].repeat(4);
    let rgba = [200u8, 100, 50, 7].repeat(4);
    let (y, u, v) = (123, 91, 175); // BT.601 of 200, 100, 50 to within one level
    let yuyv = [y, u, y, v].repeat(2);
    let nv12 = [y, y, y, y, u, v];
    let png = encode_png(2, 2, png::ColorType::Rgb, png::BitDepth::Eight, &rgb);
    let indexed = encode_png(2, 2, png::ColorType::Indexed, png::BitDepth::One, &[0b1100_0000, 0b1100_0000]);
    for (name, input, tolerance) in [
        ("rgb8", frame(2, 2, PixelFormat::Rgb8, 6, &rgb), 0.0),
        ("bgr8", frame(2, 2, PixelFormat::Bgr8, 6, &bgr), 0.0),
        ("rgba8", frame(2, 2, PixelFormat::Rgba8, 8, &rgba), 0.0),
        ("yuyv", frame(2, 2, PixelFormat::Yuyv, 4, &yuyv), 3.0),
        ("nv12", frame(2, 2, PixelFormat::Nv12, 2, &nv12), 3.0),
        ("png", frame(0, 0, PixelFormat::Png, 0, &png), 0.0),
        ("indexed png", frame(0, 0, PixelFormat::Png, 0, &indexed), 0.0),
    ] {
        let values = run(config, &shape, &input).expect(name);
        for (i, value) in values.iter().enumerate() {
            let expected = [200.0, 100.0, 50.0][i / 4];
            assert!((value - expected).abs() <= tolerance, "{name}: {values:?}");
        }
    }
}

#[test]
fn letterbox_pads_and_tells_where_the_picture_lies() {
    let model = model(&[1, 1, 4, 4], ElementType::Float32, None);
    let mut image = Image::configure(r#"{"color":"gray","fit":"letterbox","levels":"raw"}"#, &model).expect("valid");
    let wide = frame(4, 2, PixelFormat::Gray8, 4, &[9; 8]);
    let prepared = image.process(&Meta::default(), &wide).expect("valid").expect("one");
    let values = prepared.tensors[0].view().to_real(None).expect("float");
    assert_eq!(&values[..4], [PAD; 4]);
    assert_eq!(&values[4..12], [9.0; 8]);
    assert_eq!(prepared.context, r#"{"width":4,"height":2,"x":0,"y":1,"scale_x":1,"scale_y":1}"#);
}

#[test]
fn padding_does_not_count_as_dark_or_bright() {
    let dark = frame(4, 2, PixelFormat::Gray8, 4, &[10, 20, 30, 40, 10, 20, 30, 40]);
    let config = r#"{"color":"gray","fit":"letterbox","levels":"stretch"}"#;
    let values = run(config, &[1, 1, 4, 4], &dark).expect("valid");
    assert_eq!(&values[..4], [1.0; 4], "padding is brighter than the picture, and no brighter than 1");
    assert_eq!(&values[4..8], [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
}

#[test]
fn integers_go_through_the_quantization_of_the_model() {
    let quantization = Some(Quantization { scale: 1.0 / 255.0, zero_point: -128 });
    let model = model(&[1, 1, 1, 3], ElementType::Int8, quantization);
    let mut image = Image::configure(r#"{"color": "gray"}"#, &model).expect("valid");
    let prepared = image.process(&Meta::default(), &frame(3, 1, PixelFormat::Gray8, 3, &[0, 128, 255]));
    let stored: Vec<i8> = prepared.expect("valid").expect("one").tensors[0].data.iter().map(|&b| b as i8).collect();
    assert_eq!(stored, [-128, 0, 127]);
}

#[test]
fn integers_without_a_quantization_are_refused() {
    for (ty, config, fits) in [
        (ElementType::Int8, r#"{"color": "gray"}"#, false),
        (ElementType::Int8, r#"{"color": "gray", "levels": "raw"}"#, false),
        (ElementType::Uint8, r#"{"color": "gray"}"#, false),
        (ElementType::Uint8, r#"{"color": "gray", "levels": "raw"}"#, true),
    ] {
        let configured = Image::configure(config, &model(&[1, 1, 2, 2], ty, None));
        assert_eq!(configured.is_ok(), fits, "{ty} {config}");
    }
}

#[test]
fn bad_images_and_settings_are_named() {
    let png = encode_png(3, 2, png::ColorType::Grayscale, png::BitDepth::Eight, &[0; 6]);
    let vast = encode_png(4096, 4096, png::ColorType::Grayscale, png::BitDepth::One, &vec![0; 4096 * 512]);
    let gray = r#"{"color": "gray"}"#;
    let limited = r#"{"color": "gray", "pixels_max": 5}"#;
    let shape: &[i32] = &[1, 1, 2, 2];
    let encoded = |format, data| frame(0, 0, format, 0, data);
    for (name, config, shape, input, expected) in [
        ("text as png", gray, shape, encoded(PixelFormat::Png, b"hello"), "not a readable PNG"),
        ("truncated png", gray, shape, encoded(PixelFormat::Png, &png[..png.len() - 20]), "not a readable PNG"),
        ("text as jpeg", gray, shape, encoded(PixelFormat::Jpeg, b"hello"), "not a readable JPEG"),
        ("large png", limited, shape, encoded(PixelFormat::Png, &png), "3 x 2 pixels, more than pixels_max = 5"),
        ("short frame", gray, shape, frame(4, 4, PixelFormat::Gray8, 4, &[0; 15]), "does not fit its 15 bytes"),
        ("small stride", gray, shape, frame(4, 4, PixelFormat::Gray8, 3, &[0; 64]), "stride 3"),
        ("odd nv12", gray, shape, frame(3, 3, PixelFormat::Nv12, 4, &[0; 64]), "even sizes"),
        ("empty", gray, shape, frame(0, 4, PixelFormat::Gray8, 4, &[]), "0 x 4 pixels"),
        ("vast", gray, shape, frame(u32::MAX, u32::MAX, PixelFormat::Gray8, u32::MAX, &[]), "more than pixels_max"),
        ("not an image", gray, shape, Input::Text("7"), "the sample is text"),
        ("channels", gray, &[1, 3, 2, 2], Input::Text("7"), "color and layout ask for [1, 1, height, width]"),
        ("setting", r#"{"colour": "gray"}"#, shape, Input::Text("7"), "unknown field `colour`"),
        (
            "vast png",
            gray,
            shape,
            encoded(PixelFormat::Png, &vast),
            "4096 x 4096 pixels, more than pixels_max = 2097152",
        ),
        ("zero std", r#"{"color": "gray", "std": [0]}"#, shape, Input::Text("7"), "std holds a 0"),
    ] {
        let e = run(config, shape, &input).expect_err(name);
        assert!(e.to_string().contains(expected), "{name}: {e}");
    }
}
