//! The same over HTTP.

use super::world::{Manner, World};
use crate::fleet::Fleet;
use crate::fleet::api::{Access, Problem, Scope};
use crate::rollouts::api::router;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, Request};
use sedge_protocol::id::ProjectId;
use serde_json::{Value, json};
use std::sync::Arc;
use tower_service::Service as _;

/// A header that says who is asking: `ada` may everything, `bob` may look.
struct Named(String);

impl FromRequestParts<Arc<Fleet>> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Fleet>) -> Result<Self, Problem> {
        Ok(Self(parts.headers["x-name"].to_str().expect("a name").to_owned()))
    }
}

impl Scope for Named {
    fn allows(&self, _: &ProjectId, access: Access) -> bool {
        self.0 == "ada" || access == Access::Read
    }

    fn actor(&self) -> &str {
        &self.0
    }
}

async fn ask(router: &mut Router, who: &str, method: Method, path: &str, body: String) -> (u16, Value) {
    let kind = if body.starts_with('{') { "application/json" } else { "application/toml" };
    let request = Request::builder().method(method).uri(format!("/projects/acme/rollouts{path}"));
    let request = request.header("x-name", who).header("content-type", kind).body(Body::from(body));
    let response = router.call(request.expect("a request")).await.expect("an answer");
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&bytes).expect("json"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_over_http_says_who_and_why() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let World { fleet, executor, .. } = &world;
    let mut router = router::<Named>(Arc::clone(fleet), Arc::clone(executor));
    let router = &mut router;
    let spec = world.spec(
        &world.better,
        json!({"waves": [
            {"name": "canary", "size": 2, "soak_s": 1, "deadline_s": 60},
            {"name": "early", "size": 4, "soak_s": 1, "deadline_s": 60, "gate": "manual"},
        ]}),
    );
    let spec = serde_json::to_string(&spec).expect("json");
    let (status, plan) = ask(router, "ada", Method::POST, "?dry_run=true", spec.clone()).await;
    assert_eq!((status, &plan["devices"], &plan["waves"][1]["manual"]), (200, &json!(12), &json!(true)), "{plan}");
    assert_eq!(ask(router, "bob", Method::POST, "", spec.clone()).await.0, 403);
    let (status, problem) = ask(router, "ada", Method::POST, "", "waves = 1".to_owned()).await;
    assert_eq!((status, &problem["code"]), (422, &json!("invalid-rollout")), "{problem}");
    let over = spec.replace("\"success_min_permille\":950", "\"success_min_permille\":1001");
    let (status, problem) = ask(router, "ada", Method::POST, "", over).await;
    assert!(status == 422 && problem["detail"].as_str().is_some_and(|d| d.contains("more than all")), "{problem}");
    let (status, shown) = ask(router, "ada", Method::POST, "?id=r-1", spec.clone()).await;
    assert_eq!((status, &shown["id"], &shown["created_by"]), (201, &json!("r-1"), &json!("ada")), "{shown}");
    let (status, problem) = ask(router, "ada", Method::POST, "?id=r-1", spec).await;
    assert_eq!((status, &problem["code"]), (409, &json!("rollout-exists")));
    let id = "r-1".parse().expect("an id");
    world.until(&id, |summary| summary.waves[1].state == "awaiting-gate").await;
    let (_, page) = ask(router, "bob", Method::GET, "/r-1/devices?wave=1&step=succeeded&limit=1", String::new()).await;
    assert!(page["devices"].as_array().is_some_and(|d| d.len() == 1) && page["next"].is_string(), "{page}");
    assert_eq!(ask(router, "ada", Method::POST, "/r-1/approve-gate", String::new()).await.0, 200);
    let (status, problem) = ask(router, "ada", Method::POST, "/r-1/approve-gate", "{\"wave\":2}".to_owned()).await;
    assert_eq!((status, &problem["code"]), (409, &json!("no-gate")));
    let (status, problem) = ask(router, "ada", Method::POST, "/r-1/abort", String::new()).await;
    assert_eq!((status, &problem["code"]), (422, &json!("invalid-body")), "{problem}");
    world.until_state(&id, "completed").await;
    let (_, shown) = ask(router, "bob", Method::GET, "/r-1", String::new()).await;
    assert_eq!((&shown["outcome"], &shown["good"]), (&json!("completed"), &json!(true)), "{shown}");
    let (_, list) = ask(router, "bob", Method::GET, "?state=active", String::new()).await;
    assert_eq!(list["rollouts"], json!([]));
    let (_, list) = ask(router, "bob", Method::GET, "", String::new()).await;
    assert_eq!(list["rollouts"][0]["id"], json!("r-1"));
    let (_, timeline) = ask(router, "bob", Method::GET, "/r-1/timeline?after=0", String::new()).await;
    assert_eq!(
        (&timeline["entries"][0]["actor"], &timeline["entries"][0]["note"]["note"]),
        (&json!("ada"), &json!("started"))
    );
    assert_eq!(ask(router, "bob", Method::GET, "/none", String::new()).await.0, 404);
}
