//! What an importer makes of a model's file is part of its saved form, so a form is good for the importer that made it: for
//! its sources, byte by byte, since two builds of one version may differ.

macro_rules! sources {
    ($($path:literal,)*) => {
        #[cfg(test)]
        const PATHS: &[&str] = &[$($path),*];
        /// Changes with any of them.
        #[allow(long_running_const_eval, reason = "sources have some hundred thousand bytes")]
        pub(super) const IMPORTER: u64 = sedge_engine::fingerprint(&[$(include_bytes!($path)),*]);
    };
}
sources! {
    "../../tflite.rs",
    "../../tflite/arithmetic.rs",
    "../../tflite/contents.rs",
    "../../tflite/conv.rs",
    "../../tflite/flatbuffer.rs",
    "../../tflite/importer.rs",
    "../../tflite/layout.rs",
    "../../tflite/operator.rs",
    "../../tflite/pool.rs",
    "../../tflite/schema.rs",
    "../../tflite/unary.rs",
    "../../tflite/value.rs",
    "../edge.rs",
    "../executable.rs",
    "../fused.rs",
    "../fused/constant.rs",
    "../fused/dynamic.rs",
    "../fused/dynamic/build.rs",
    "../fused/import.rs",
    "../fused/import/arrange.rs",
    "../fused/import/dense.rs",
    "../fused/import/moves.rs",
    "../fused/import/pending.rs",
    "../fused/import/picture.rs",
    "../fused/import/pointwise.rs",
    "../fused/import/qlinear.rs",
    "../fused/import/weights.rs",
    "../fused/kinds.rs",
    "../fused/operand.rs",
    "../fused/operator.rs",
    "../fused/recognise.rs",
    "../fused/region.rs",
    "../fused/report.rs",
    "../fused/source.rs",
    "../fused/tidy.rs",
    "../onnx.rs",
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(path.canonicalize().expect("it is there"));
            }
        }
    }

    #[test]
    fn every_source_of_an_importer_counts() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        sources(&root.join("model/fused"), &mut found);
        sources(&root.join("tflite"), &mut found);
        let listed: Vec<PathBuf> = super::PATHS
            .iter()
            .map(|path| root.join("model/saved").join(path).canonicalize().unwrap_or_else(|e| panic!("{path}: {e}")))
            .collect();
        let missing: Vec<_> = found.iter().filter(|path| !listed.contains(path)).collect();
        assert!(missing.is_empty(), "not listed in model/saved/importer.rs: {missing:?}");
    }
}
