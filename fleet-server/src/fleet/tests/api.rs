//! The same over HTTP. There is no broker: nothing here waits for one.

use crate::fleet::api::{Access, Problem, Scope, router};
use crate::fleet::mqtt::MqttEndpoint;
use crate::fleet::store::now;
use crate::fleet::testing::{noise, packed, pool, publish, repository};
use crate::fleet::{Fleet, FleetContext, FleetLimits};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, Request, StatusCode};
use sedge_protocol::Version;
use sedge_protocol::id::ProjectId;
use serde_json::{Value, json};
use std::sync::Arc;
use tower_service::Service as _;

/// A header that says who is asking: `ada` may everything, `bob` may look.
struct Named(String);

impl FromRequestParts<Arc<Fleet>> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Fleet>) -> Result<Self, Problem> {
        let name = parts.headers.get("x-name").and_then(|name| name.to_str().ok());
        let nobody = || Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "say who you are");
        name.map(|name| Self(name.to_owned())).ok_or_else(nobody)
    }
}

impl Scope for Named {
    fn allows(&self, project: &ProjectId, access: Access) -> bool {
        project.as_str() != "secret" && (self.0 == "ada" || access == Access::Read)
    }

    fn actor(&self) -> &str {
        &self.0
    }
}

struct Client(Router);

impl Client {
    async fn ask(&mut self, who: &str, method: Method, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("x-name", who).body(body.into());
        let response = self.0.call(request.expect("a request")).await.expect("an answer");
        let status = response.status();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let expected = if status.is_success() { "application/json" } else { "application/problem+json" };
        assert_eq!(kind.as_deref(), Some(expected), "{path}");
        let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status.as_u16(), serde_json::from_slice(&bytes).expect("json"))
    }

    async fn refused(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Body>,
        status: u16,
        code: &str,
        detail: &str,
    ) {
        let (found, problem) = self.ask("ada", method, path, body).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
        let text = problem["detail"].as_str().unwrap_or_default();
        assert!(text.contains(detail), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_goes_from_the_publisher_to_a_device_and_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let limits = FleetLimits { upload_bytes_max: 200_000, ..FleetLimits::default() };
    let context = FleetContext {
        pool: pool(directory.path()).await,
        data_directory: directory.path().to_owned(),
        broker: MqttEndpoint::loopback(1),
        limits,
    };
    let fleet = Arc::new(Fleet::start(context).await.expect("a fleet"));
    let mut client = Client(Router::new().nest("/api/v1", router::<Named>(fleet)));
    let base = "/api/v1/projects/acme";
    let (bundles, device) = (format!("{base}/bundles"), format!("{base}/devices/cam-1"));
    let desired = format!("{device}/desired/model");

    let mut repository = repository(now());
    let root = repository.first_root().expect("signed").to_vec();
    client.refused(Method::GET, &bundles, "", 404, "no-project", "create it with the publisher's first root").await;
    client
        .refused(Method::PUT, &format!("{base}/publisher"), "{}", 422, "metadata-refused", "`1.root.json` is refused")
        .await;
    let (status, created) = client.ask("ada", Method::PUT, &format!("{base}/publisher"), root.clone()).await;
    assert!(status == 200 && created["director_root"].as_str().is_some_and(|d| d.starts_with("sha256:")));
    let one = packed("digits", "1.0.0", &[("a", noise(1, 60_000))]);
    let two = packed("digits", "1.1.0", &[("a", noise(2, 60_000))]);
    one.released(&mut repository, "digits", Version::new(1, 0, 0));
    two.released(&mut repository, "digits", Version::new(1, 1, 0));
    publish(&mut repository, now());
    client.refused(Method::PUT, &bundles, one.tar.clone(), 409, "metadata-not-valid", "upload newer ones").await;
    let mut complete = Value::Null;
    for (name, file) in repository.uploads(1).expect("published") {
        let (status, imported) =
            client.ask("ada", Method::POST, &format!("{base}/publisher/files/{name}"), file.to_vec()).await;
        assert_eq!(status, 200, "{imported}");
        complete = imported["complete"].clone();
    }
    assert_eq!(complete, json!(true));
    let files = format!("{base}/publisher/files");
    client
        .refused(Method::POST, &format!("{files}/notes.txt"), "", 400, "invalid-name", "is no file of a repository")
        .await;

    let wanted =
        |bundle: &crate::fleet::testing::Packed| json!({"bundle": "digits", "digest": bundle.digest}).to_string();
    client.refused(Method::PUT, &desired, wanted(&one), 409, "not-uploaded", "upload it before it is assigned").await;
    client.refused(Method::PUT, &bundles, vec![0; 300_000], 413, "too-large", "larger than 200000 bytes").await;
    client.refused(Method::PUT, &bundles, "hello", 422, "no-bundle", "`sedge bundle pack` makes one").await;
    for (bundle, status) in [(&one, 201), (&two, 201), (&two, 200)] {
        let (found, artifact) = client.ask("ada", Method::PUT, &bundles, bundle.tar.clone()).await;
        assert_eq!((found, artifact["name"].as_str()), (status, Some("digits")), "{artifact}");
    }
    assert_eq!(client.ask("bob", Method::GET, &bundles, "").await.1.as_array().map(Vec::len), Some(2));

    for (generation, bundle) in [(1, &one), (2, &two)] {
        let answer = client.ask("ada", Method::PUT, &desired, wanted(bundle)).await;
        assert_eq!(answer, (200, json!({"generation": generation})));
    }
    let late = json!({"bundle": "digits", "digest": one.digest, "expected_generation": 1}).to_string();
    client.refused(Method::PUT, &desired, late, 409, "conflict", "has generation 2 and not 1").await;
    let fraction = json!({"bundle": "digits", "digest": one.digest, "settings": {"threshold": 0.5}}).to_string();
    client.refused(Method::PUT, &desired, fraction, 422, "not-signable", "cannot be signed").await;
    client
        .refused(Method::PUT, &desired, r#"{"bundle":"digits"}"#, 422, "invalid-body", "missing field `digest`")
        .await;
    client.refused(Method::PUT, &format!("{device}/desired/a%20b"), wanted(&one), 400, "invalid-name", "`a b`").await;
    assert_eq!(
        client.ask("ada", Method::POST, &format!("{desired}/rollback"), "").await,
        (200, json!({"generation": 3}))
    );
    let (_, view) = client.ask("bob", Method::GET, &format!("{device}/state"), "").await;
    assert_eq!((&view["generation"], &view["presence"]), (&json!(3), &Value::Null));
    assert_eq!(view["desired"]["model"]["digest"], json!(one.digest));

    let judged = json!({"generation": 9, "verdict": "commit"}).to_string();
    let verdict = format!("{desired}/verdict");
    client.refused(Method::POST, &verdict, judged, 409, "other-generation", "a verdict on 9 would be void").await;
    let judged = json!({"generation": 3, "verdict": "revert"}).to_string();
    assert_eq!(client.ask("ada", Method::POST, &verdict, judged).await.0, 202);
    assert_eq!(client.ask("ada", Method::DELETE, &desired, "").await, (200, json!({"generation": 4})));

    let (status, problem) = client.ask("bob", Method::DELETE, &desired, "").await;
    assert_eq!((status, problem["code"].as_str()), (403, Some("forbidden")));
    assert_eq!(client.ask("ada", Method::GET, "/api/v1/projects/secret/bundles", "").await.0, 403);
}
