//! The containers of a Compose project, through the `docker` command.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Which network joins the regions, as the Compose file calls it.
const BETWEEN: &str = "between";
const START_TRIES: usize = 5;
const START_PAUSE: Duration = Duration::from_secs(1);

/// A project of Docker Compose, old or new.
#[derive(Clone, Debug)]
pub struct Compose {
    /// Its name: `docker compose -p NAME`.
    pub project: String,
}

impl Compose {
    /// The containers of the services that go on running, by the service's name.
    pub fn services(&self) -> Result<BTreeMap<String, String>, String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let format = "{{.ID}} {{.Label \"com.docker.compose.service\"}}";
        let listed = docker(&[
            "ps",
            "--all",
            "--no-trunc",
            "--filter",
            &project,
            "--format",
            format,
        ])?;
        let pairs = listed.lines().filter_map(|line| line.split_once(' '));
        let services: BTreeMap<String, String> = pairs
            .filter(|(_, service)| !service.starts_with("init-"))
            .map(|(container, service)| (service.to_owned(), container.to_owned()))
            .collect();
        match services.is_empty() {
            true => Err(format!("project {} has no containers: is it up?", self.project)),
            false => Ok(services),
        }
    }

    /// `docker COMMAND CONTAINER...`, all at once.
    pub fn on_all(&self, command: &[&str], containers: &[&str]) -> Result<(), String> {
        docker(&[command, containers].concat()).map(|_| ())
    }

    /// `docker start CONTAINER...`; again after a moment when that fails, for Docker may let go of a published port late.
    pub fn start(&self, containers: &[&str]) -> Result<(), String> {
        for _ in 0..START_TRIES {
            if self.on_all(&["start"], containers).is_ok() {
                return Ok(());
            }
            thread::sleep(START_PAUSE);
        }
        self.on_all(&["start"], containers)
    }

    /// Takes containers out of the network between the regions, or puts them back under their names.
    pub fn set_cut(&self, containers: &[(&str, &str)], is_cut: bool) -> Result<(), String> {
        let network = format!("{}_{BETWEEN}", self.project);
        for (service, container) in containers {
            if is_cut {
                docker(&["network", "disconnect", "--force", &network, container])?;
            } else {
                docker(&["network", "connect", "--alias", service, &network, container])?;
            }
        }
        Ok(())
    }

    /// Services that do not say that they are healthy.
    pub fn unhealthy(&self) -> Result<Vec<String>, String> {
        let services = self.services()?;
        let format = "{{.Id}} {{if .State.Health}}{{.State.Health.Status}}{{end}}";
        let containers: Vec<&str> = services.values().map(String::as_str).collect();
        let said = docker(&[&["inspect", "--format", format], containers.as_slice()].concat())?;
        let healthy: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_suffix(" healthy"))
            .collect();
        let is_healthy = |container: &String| healthy.contains(&container.as_str());
        let others = services
            .into_iter()
            .filter(|(_, container)| !is_healthy(container));
        Ok(others.map(|(service, _)| service).collect())
    }

    /// Services that panicked, or ended by themselves and were started again, and what they said last.
    pub fn broken_services(&self) -> Result<Vec<String>, String> {
        let mut broken = Vec::new();
        for (service, container) in self.services()? {
            let format = "{{.RestartCount}} {{.State.Running}} {{.State.OOMKilled}}";
            let state = docker(&["inspect", "--format", format, &container])?;
            if state.trim() != "0 true false" {
                broken.push(format!(
                    "{service} ended by itself (restarts, running, out of memory: {})",
                    state.trim()
                ));
            }
            let log = docker(&["logs", &container])?;
            let panicked = log.lines().filter(|line| line.contains("panicked at"));
            broken.extend(panicked.take(3).map(|line| format!("{service}: {line}")));
        }
        Ok(broken)
    }
}

/// What the command printed, both ways.
fn docker(arguments: &[&str]) -> Result<String, String> {
    let shown = || format!("docker {}", arguments.join(" "));
    let output = Command::new("docker").args(arguments).output();
    let output = output.map_err(|error| format!("{}: {error}", shown()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout) + &text(&output.stderr)),
        false => Err(format!("{}: {}", shown(), text(&output.stderr).trim())),
    }
}
