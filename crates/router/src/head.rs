//! What a request's head says: which call it is, and how it goes on to the next hop.

use http::{Request, Uri, Version, header};
use tonic::body::Body;

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Session,
    /// Any query processor; begins a transaction.
    Begins,
    /// Any query processor; a transaction from its beginning to its end.
    Executes,
    /// Any query processor; asks about something.
    Asks,
    /// The one that the handle names.
    Named,
}

impl Kind {
    pub(crate) fn of(path: &str) -> Option<Self> {
        Some(match path.rsplit('/').next()? {
            "Session" => Self::Session,
            "Begin" => Self::Begins,
            "Execute" => Self::Executes,
            "Outcome" => Self::Asks,
            "Get" | "BatchGet" | "Scan" | "Put" | "Delete" | "DeleteRange" | "Savepoint" | "RollbackTo"
            | "Commit" | "Rollback" => Self::Named,
            _ => return None,
        })
    }

    /// Nothing of the kind is begun by a router that is about to stop.
    pub(crate) fn is_new(self) -> bool {
        match self {
            Self::Session | Self::Begins | Self::Executes => true,
            Self::Asks | Self::Named => false,
        }
    }

    /// Whether UNAVAILABLE in answer to it says that the query processor takes nothing new. The others need
    /// storage or adjudicators, which may be what is missing.
    pub(crate) fn shows_readiness(self) -> bool {
        match self {
            Self::Session | Self::Begins => true,
            Self::Executes | Self::Asks | Self::Named => false,
        }
    }
}

/// A request without its body, to be sent more than once.
pub(crate) struct Head {
    pub(crate) kind: Kind,
    parts: http::request::Parts,
}

impl Head {
    pub(crate) fn new(kind: Kind, mut parts: http::request::Parts) -> Self {
        // The next hop has its own.
        parts.headers.remove(header::HOST);
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(Uri::default, Uri::from);
        parts.version = Version::HTTP_2;
        Self { kind, parts }
    }

    pub(crate) fn with(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        request
    }
}
