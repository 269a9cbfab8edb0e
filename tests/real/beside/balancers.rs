//! Stickpin, HAProxy, nginx and Apache httpd as processes, each with the configuration in this folder, in front of the same
//! three servers.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, REFERER};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::apps::server::{AppServer, command, print_last_lines, signal_group};
use crate::support::{Admin, Client, ReservedPort, until};

/// Which program, and how it keeps clients at their servers where it has two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    StickpinByCookie,
    StickpinByRoute,
    /// Two ways in one process: it has two fronts.
    Haproxy,
    Nginx,
    Apache,
}

pub(crate) const MAKES: [Make; 5] =
    [Make::StickpinByCookie, Make::StickpinByRoute, Make::Haproxy, Make::Nginx, Make::Apache];

impl Make {
    fn program(self) -> &'static str {
        match self {
            Self::StickpinByCookie | Self::StickpinByRoute => env!("CARGO_BIN_EXE_stickpin"),
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Apache => "apache2",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::StickpinByCookie | Self::StickpinByRoute => "stickpin.yaml",
            Self::Haproxy => "haproxy.cfg",
            Self::Nginx => "nginx.conf",
            Self::Apache => "httpd.conf",
        }
    }

    fn affinity(self) -> &'static str {
        match self {
            Self::StickpinByRoute => {
                "{ app_session: { cookie: JSESSIONID, path_parameter: jsessionid, home_by: route_suffix } }"
            }
            _ => "{ cookie: { name: stickpin } }",
        }
    }

    /// In the order of [`Balancer::fronts`].
    pub(crate) fn ways(self) -> &'static [&'static str] {
        match self {
            Self::StickpinByCookie => &["Stickpin, own cookie"],
            Self::StickpinByRoute => &["Stickpin, by suffix"],
            Self::Haproxy => &["HAProxy, own cookie", "HAProxy, by suffix"],
            Self::Nginx => &["nginx, by suffix"],
            Self::Apache => &["Apache httpd, by suffix"],
        }
    }

    pub(crate) fn is_stickpin(self) -> bool {
        matches!(self, Self::StickpinByCookie | Self::StickpinByRoute)
    }

    /// As the program says it.
    pub(crate) fn version(self) -> String {
        let option = match self {
            Self::StickpinByCookie | Self::StickpinByRoute => "--version",
            Self::Haproxy | Self::Nginx | Self::Apache => "-v",
        };
        let output = self.command().arg(option).output().unwrap_or_else(|error| panic!("{}: {error}", self.program()));
        // nginx says it on standard error.
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }

    fn command(self) -> Command {
        let mut command = command(self.program());
        // Debian's place of servers, which an ordinary user's PATH lacks.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        command
    }
}

/// One program at work: a process, or several that one has started. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) make: Make,
    site: Site,
    child: Child,
}

/// Where it listens, where it keeps its files, and what it stands in front of.
#[derive(Debug)]
struct Site {
    folder: TempDir,
    fronts: Vec<ReservedPort>,
    admin: ReservedPort,
    sessions: &'static str,
    servers: Vec<(String, SocketAddr)>,
}

impl Balancer {
    /// Starts one, and waits until it listens.
    pub(crate) async fn start(make: Make, sessions: &'static str, servers: &[AppServer]) -> Self {
        let reserve = || ReservedPort::new().expect("a loopback port is free");
        let site = Site {
            folder: tempfile::tempdir().expect("a folder for temporary files"),
            fronts: make.ways().iter().map(|_| reserve()).collect(),
            admin: reserve(),
            sessions,
            servers: servers.iter().map(|server| (server.name().to_owned(), server.address())).collect(),
        };
        site.write_config(make, None);
        let log = File::create(site.file(LOG)).expect("a writable folder");
        let mut command = make.command();
        match make {
            Make::StickpinByCookie | Make::StickpinByRoute => command.args(["run", "--config"]),
            Make::Haproxy => command.args(["-db", "-f"]),
            Make::Nginx => command.args(NGINX_OPTIONS),
            Make::Apache => command.args(["-DFOREGROUND", "-f"]),
        };
        command.arg(site.file(make.template())).current_dir(site.folder.path());
        let child = command.stdout(log.try_clone().expect("a file")).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut balancer = Self { make, site, child };
        balancer.listens().await;
        balancer
    }

    async fn listens(&mut self) {
        let fronts = self.fronts();
        until(&format!("{:?} listens", self.make), async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{:?} ended: {status}", self.make);
            }
            for front in &fronts {
                TcpStream::connect(front).await?;
            }
            io::Result::Ok(())
        })
        .await;
    }

    /// Where clients come in, for each of its ways.
    pub(crate) fn fronts(&self) -> Vec<SocketAddr> {
        self.site.fronts.iter().map(ReservedPort::address).collect()
    }

    /// Stickpin's own.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(self.site.admin.address())
    }

    /// The operator takes this server out, in the way of the program, or puts it back.
    pub(crate) async fn order(&self, name: &str, order: Order) {
        match self.make {
            Make::StickpinByCookie | Make::StickpinByRoute => {
                let state = if order == Order::Disable { "disabled" } else { "enabled" };
                self.admin().set_state("shop", name, state).await;
            }
            Make::Haproxy => self.order_haproxy(name, order),
            Make::Nginx => self.order_nginx(name, order),
            Make::Apache => self.order_apache(name, order).await,
        }
    }

    fn order_haproxy(&self, name: &str, order: Order) {
        let state = if order == Order::Disable { "maint" } else { "ready" };
        for section in ["cookie", "route"] {
            let mut socket = UnixStream::connect(self.site.file("admin.sock")).expect("haproxy listens there");
            writeln!(socket, "set server {section}/{name} state {state}").expect("haproxy reads it");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).expect("haproxy answers");
            assert_eq!(answer.trim(), "", "set server {section}/{name} state {state}");
        }
    }

    /// Its commercial edition alone takes orders: others change the file and reload.
    fn order_nginx(&self, name: &str, order: Order) {
        self.site.write_config(self.make, (order == Order::Disable).then_some(name));
        let mut command = self.make.command();
        command.args(["-s", "reload"]).args(NGINX_OPTIONS).arg(self.site.file(self.make.template()));
        let status = command.current_dir(self.site.folder.path()).status().expect("nginx is installed");
        assert!(status.success(), "{command:?}: {status}");
    }

    /// What the page of its balancer-manager sends.
    async fn order_apache(&self, name: &str, order: Order) {
        let front = self.fronts()[0];
        let address = self.site.address(name);
        let disabled = u8::from(order == Order::Disable);
        let form = format!("b=shop&w=http%3A%2F%2F127.0.0.1%3A{}&w_status_D={disabled}&nonce=beside", address.port());
        let request = Request::post("/balancer-manager")
            .header(REFERER, format!("http://{front}/balancer-manager"))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .expect("a valid request");
        let page = Client::new(front).send(request).await.unwrap_or_else(|error| panic!("balancer-manager: {error}"));
        // It answers 200 to what it ignores, too.
        let text = page.text();
        let line =
            text.lines().find(|line| line.contains(&format!("<td>{name}</td>")) && line.contains(&address.to_string()));
        let line = line.unwrap_or_else(|| panic!("no line of {name} in {text}"));
        assert_eq!(line.contains("Dis"), order == Order::Disable, "{line}");
    }
}

/// What operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Disable,
    Enable,
}

const LOG: &str = "log";

const NGINX_OPTIONS: [&str; 3] = ["-e", "stderr", "-c"];

impl Drop for Balancer {
    fn drop(&mut self) {
        // Apache, when killed, leaves its shared memory to the system; told to end, it kills its own processes within seconds.
        let name = if self.make == Make::Apache { "TERM" } else { "KILL" };
        // Fails only when it has ended already.
        let _ = signal_group(&self.child, name);
        let _ = self.child.wait();
        if thread::panicking() {
            print_last_lines(&format!("{:?}", self.make), &self.site.file(LOG));
        }
    }
}

impl Site {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.servers.iter().find(|(known, _)| known == name).expect("there is one").1
    }

    /// With one server taken out; only nginx needs that.
    fn write_config(&self, make: Make, out: Option<&str>) {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/beside").join(make.template());
        let mut text = fs::read_to_string(&template).unwrap_or_else(|error| panic!("{}: {error}", template.display()));
        let fronts = ["@FRONT@", "@FRONT2@"].into_iter().zip(self.fronts.iter().map(|port| port.address().to_string()));
        let servers = self.servers.iter().map(|(name, address)| {
            let down = if out == Some(name) { " down" } else { "" };
            (format!("@{}@", name.to_uppercase()), format!("{address}{down}"))
        });
        let others = [
            ("@ADMIN@", self.admin.address().to_string()),
            ("@FOLDER@", self.folder.path().display().to_string()),
            ("@MODULES@", "/usr/lib/apache2/modules".to_owned()),
            ("@SESSIONS@", self.sessions.to_owned()),
            ("@AFFINITY@", make.affinity().to_owned()),
        ];
        let others = fronts.chain(others).map(|(place, value)| (place.to_owned(), value));
        for (place, value) in servers.chain(others) {
            text = text.replace(&place, &value);
        }
        fs::write(self.file(make.template()), text).expect("a writable folder");
    }
}
