//! Meridian embedded in this process, as `kv-cli dev` runs it. Its regions are apart by delays of its own, not by the proxy.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use meridian::embedded::{Cluster, Options};

use super::meridian::borders;
use super::{Client, Kind, Site, System, Wanted, kv};
use crate::error::{Error, Result};

pub(super) struct Dev {
    cluster: Cluster,
}

impl Dev {
    pub(super) async fn start(site: Site) -> Result<Self> {
        if site.setup.engine.is_some() || !site.setup.settings.is_empty() {
            let what =
                "--engine and --set go with the system meridian: the embedded cluster chooses by itself";
            return Err(Error::Usage(what.to_owned()));
        }
        let mut options = Options::new(site.dir.join("data")).listen(([127, 0, 0, 1], 0).into());
        if site.regions.are_apart() {
            let delays = site.regions.given().iter().cloned();
            options = options.regions(3).delays(delays);
        }
        // The same ranges as in separate processes: see there.
        options = options.split_at(borders(&site.setup).iter().copied());
        let cluster = Cluster::start(options).await;
        let cluster = cluster.map_err(Error::system("dev", "the cluster does not start"))?;
        Ok(Self { cluster })
    }
}

impl System for Dev {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Its clients call it without a socket; those that do not try again need settings of their own, and get one.
    fn connect(&self, wanted: Wanted) -> BoxFuture<'_, Result<Vec<Arc<dyn Client>>>> {
        async move {
            let served = self.cluster.addresses().into_iter();
            let mut here =
                served.filter(|(name, _)| wanted.region.is_none_or(|region| region.name() == *name));
            let client = match (wanted.region, here.next()) {
                (_, Some((_, address))) if !wanted.tries_again => kv::builder(wanted, 1)
                    .endpoint(address.to_string())
                    .connect_lazy(),
                (Some(region), _) => self.cluster.client_in(region.name()),
                (None, _) => self.cluster.client(),
            };
            let client = client.map_err(Error::system("dev", "a client cannot be made"))?;
            Ok(kv::shared(&[client], wanted.count))
        }
        .boxed()
    }

    fn settle(&self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.cluster.shutdown().boxed()
    }
}
