//! The fleet as a part of the server: what [`FleetService`] asks, and who an API token's holder is to [`super::api`].

use super::api::{self, Access, Scope as Asking};
use super::mqtt::MqttEndpoint;
use super::{Fleet, FleetContext, FleetError, FleetLimits};
use crate::console::{ConsoleData, LiveData, Rollouts, StoredData};
use crate::field::{self, Field};
use crate::fleet::publisher::PublisherError;
use crate::http::Operator;
use crate::rollouts::{self, Clock, Executor};
use crate::service::{AnyError, FirstRoots, FleetService, Site};
use crate::store::Scope;
use async_trait::async_trait;
use axum::Router;
use sedge_protocol::id::{Principal, ProjectId, ServerName};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Starts the fleet when its server has started.
#[derive(Debug, Default)]
pub struct FleetPart {
    limits: FleetLimits,
    fleet: OnceLock<Arc<Fleet>>,
    field: OnceLock<Arc<Field>>,
    /// Emptied when the server stops, so that nothing is assigned any more.
    rollouts: Mutex<Option<Arc<Executor>>>,
    console: OnceLock<Arc<LiveData>>,
}

impl FleetPart {
    /// With bounds of one's own.
    pub fn new(limits: FleetLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// How models fare, once the server has started.
    pub fn field(&self) -> Option<Arc<Field>> {
        self.field.get().cloned()
    }

    /// Rollouts, while the server runs.
    pub fn rollouts(&self) -> Option<Arc<Executor>> {
        self.rollouts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl FleetService for FleetPart {
    async fn started(&self, site: Site) -> Result<Router, AnyError> {
        let name: ServerName = "main".parse()?;
        let context = FleetContext {
            pool: site.store.pool().clone(),
            data_directory: site.data.clone(),
            broker: MqttEndpoint::tls(&site.broker.host, site.broker.port, site.mqtt_tls(&name)?),
            limits: self.limits,
        };
        let fleet = Arc::new(Fleet::start(context).await?);
        let fleet = self.fleet.get_or_init(|| fleet);
        let field = Arc::new(Field::start(site.store.pool().clone(), fleet.telemetry()).await?);
        let field = self.field.get_or_init(|| field);
        let edge = Arc::new(site.store.clone());
        let pool = site.store.pool().clone();
        let executor = Executor::start(pool, edge, fleet.clone(), field.clone(), Clock::default()).await?;
        let executor = Arc::new(executor);
        *self.rollouts.lock().unwrap_or_else(PoisonError::into_inner) = Some(executor.clone());
        let stored = StoredData::open(site.store.clone()).await?;
        let console = LiveData::new(stored, field.clone(), Arc::new(Rollouts::of(&executor)));
        self.console.get_or_init(|| Arc::new(console));
        let routes = api::router::<Operator>(fleet.clone());
        let routes = routes.merge(field::api::router::<Operator>(fleet.clone(), field.clone()));
        Ok(routes.merge(rollouts::api::router::<Operator>(fleet.clone(), executor)))
    }

    async fn first_roots(&self, project: &ProjectId) -> Result<Option<FirstRoots>, AnyError> {
        let Some(fleet) = self.fleet.get() else { return Ok(None) };
        match fleet.first_roots(project).await {
            Ok(roots) => Ok(Some(FirstRoots { publisher: roots.publisher, director: roots.director })),
            Err(FleetError::Publisher(PublisherError::NoProject { .. })) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn console(&self) -> Option<Arc<dyn ConsoleData>> {
        Some(self.console.get()?.clone())
    }

    async fn device_decommissioned(&self, device: &Principal) {
        if let Some(rollouts) = self.rollouts() {
            rollouts.device_gone(device).await;
        }
        let Some(field) = self.field.get() else { return };
        if let Err(e) = field.forget(device).await {
            tracing::error!(%device, "its heartbeats are not forgotten: {e}");
        }
    }

    async fn stopping(&self) {
        if let Some(rollouts) = self.rollouts.lock().unwrap_or_else(PoisonError::into_inner).take() {
            rollouts.stop();
        }
        let Some(field) = self.field.get() else { return };
        if let Err(e) = field.store().await {
            tracing::error!("the last heartbeats are not stored: {e}");
        }
    }
}

impl Asking for Operator {
    fn allows(&self, _project: &ProjectId, access: Access) -> bool {
        let needed = match access {
            Access::Read => Scope::Read,
            Access::Deploy => Scope::Operate,
            Access::Publish => Scope::Admin,
        };
        self.scope >= needed
    }

    fn actor(&self) -> &str {
        &self.name
    }
}
