//! Components from WebAssembly text, for guests that no honest toolchain would make.

use anyhow::{Context as _, Result};
use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The component that a core module's text makes in a world of `sedge:processor`.
///
/// # Errors
/// When the text does not parse or does not fit the world.
pub fn from_wat(text: &str, world: &str) -> Result<Vec<u8>> {
    let mut core = wat::parse_str(text).context("parsing the text")?;
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/wit"))?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().validate(true).module(&core)?.encode()
}
