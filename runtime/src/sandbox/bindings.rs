//! Bindings generated from the WIT package.
#![allow(missing_docs, unreachable_pub, unused_qualifications, unused_variables, clippy::all)]

pub mod pre {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "preprocessor-full",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
    });
}

pub mod post {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "postprocessor-full",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
        with: {
            "sedge:processor/log": super::pre::sedge::processor::log,
            "sedge:processor/trace": super::pre::sedge::processor::trace,
            "sedge:processor/kv": super::pre::sedge::processor::kv,
            "sedge:processor/clock": super::pre::sedge::processor::clock,
            "sedge:processor/random": super::pre::sedge::processor::random,
        },
    });
}
