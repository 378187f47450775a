//! What is checked about a component before it is compiled, and before it is instantiated.

use super::limits::Grants;
use sedge_protocol::manifest::Grant;
use sedge_protocol::text::one_line;
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

/// Larger components are refused: compiling them costs a device its memory and time.
pub(crate) const COMPONENT_BYTES_MAX: usize = 8 << 20;
/// Functions of one component; a hundred thousand empty ones take the compiler a second.
const FUNCTIONS_MAX: u32 = 20_000;
/// Bytes of one function's body; the compiler's time grows faster than the body.
const FUNCTION_BYTES_MAX: usize = 512 << 10;

const PACKAGE: &str = "sedge:processor/";
const VERSION: &str = "@0.1.";

/// What a stage must export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Pre,
    Post,
}

impl Stage {
    const fn export(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pre => "preprocessor",
            Self::Post => "postprocessor",
        }
    }
}

/// Why a component is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// More than 8 MiB.
    #[error("the component has {bytes} bytes; at most {COMPONENT_BYTES_MAX} are accepted; strip it or make it smaller")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A core module, not a component.
    #[error("this is a core WebAssembly module, not a component; make one of it with `sedge processor componentize`")]
    NotAComponent,
    /// Malformed, truncated, or with a feature that is off.
    #[error("not a valid component under the sandbox's features: {problem}")]
    Invalid {
        /// What the validator found, with the offset.
        problem: String,
    },
    /// A bomb for the compiler.
    #[error("{what}: {found}, at most {limit} are accepted")]
    TooComplex {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is accepted.
        limit: u64,
    },
    /// An import that no processor can have.
    #[error("the component imports `{import}`, which the sandbox does not offer{hint}")]
    UnknownImport {
        /// The import.
        import: String,
        /// What to do.
        hint: &'static str,
    },
    /// An import that must be granted first.
    #[error(
        "the component imports `{import}`, which is not granted: add `grants = [\"{grant}\"]` to the {stage} in bundle.toml and allow it in the device's policy"
    )]
    NotGranted {
        /// The import.
        import: String,
        /// Its name as a grant.
        grant: &'static str,
        /// The stage that asks.
        stage: &'static str,
    },
    /// Not what the stage needs.
    #[error("the component does not export `{expected}`, so it is no {stage}; it exports {found}")]
    WrongExports {
        /// The interface needed.
        expected: String,
        /// The stage.
        stage: &'static str,
        /// What it exports.
        found: String,
    },
}

/// Features that a guest may use, the same set that the engine has on.
fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::CALL_INDIRECT_OVERLONG
        | WasmFeatures::BULK_MEMORY_OPT
}

/// Checks the bytes, in time linear in their number.
pub(crate) fn check_bytes(wasm: &[u8]) -> Result<(), AdmissionError> {
    if wasm.len() > COMPONENT_BYTES_MAX {
        return Err(AdmissionError::TooLarge { bytes: wasm.len() });
    }
    let invalid = |e: wasmparser::BinaryReaderError| AdmissionError::Invalid { problem: one_line(&e.to_string()) };
    let mut functions = 0u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Module, range, .. } if range.start == 0 => {
                return Err(AdmissionError::NotAComponent);
            }
            Payload::CodeSectionStart { count, .. } => functions = functions.saturating_add(count),
            Payload::CodeSectionEntry(body) => {
                let bytes = body.range().len();
                if bytes > FUNCTION_BYTES_MAX {
                    return Err(too_complex("bytes in one function", bytes as u64, FUNCTION_BYTES_MAX as u64));
                }
            }
            _ => {}
        }
        if functions > FUNCTIONS_MAX {
            return Err(too_complex("functions", functions.into(), FUNCTIONS_MAX.into()));
        }
    }
    Validator::new_with_features(features()).validate_all(wasm).map_err(invalid)?;
    Ok(())
}

fn too_complex(what: &'static str, found: u64, limit: u64) -> AdmissionError {
    AdmissionError::TooComplex { what, found, limit }
}

/// Checks what the component imports and exports against what it is granted and needed for.
pub(crate) fn check_type(
    component: &wasmtime::component::Component,
    stage: Stage,
    grants: &Grants,
) -> Result<(), AdmissionError> {
    let engine = component.engine();
    let ty = component.component_type();
    for (import, _) in ty.imports(engine) {
        check_import(import, stage, grants)?;
    }
    let exports: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
    if !exports.iter().any(|e| interface(e) == Some(stage.export())) {
        return Err(AdmissionError::WrongExports {
            expected: format!("{PACKAGE}{}@0.1.0", stage.export()),
            stage: stage.name(),
            found: if exports.is_empty() { "nothing".to_owned() } else { one_line(&exports.join(", ")) },
        });
    }
    Ok(())
}

/// Name of an interface of `sedge:processor@0.1`.
fn interface(name: &str) -> Option<&str> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
    format!("@{version}").starts_with(VERSION).then_some(interface)
}

fn check_import(import: &str, stage: Stage, grants: &Grants) -> Result<(), AdmissionError> {
    let grant = match interface(import) {
        Some("types" | "sample" | "log" | "trace") => return Ok(()),
        Some("kv") => Grant::Kv,
        Some("clock") => Grant::Clock,
        Some("random") => Grant::Random,
        _ => {
            let hint = if import.starts_with("wasi:") {
                "; build it for wasm32-unknown-unknown, which needs no WASI"
            } else if import.starts_with(PACKAGE) {
                "; this runtime offers version 0.1 of sedge:processor"
            } else {
                ""
            };
            return Err(AdmissionError::UnknownImport { import: one_line(import), hint });
        }
    };
    if grants.has(grant) {
        return Ok(());
    }
    Err(AdmissionError::NotGranted { import: one_line(import), grant: grant.name(), stage: stage.name() })
}
