//! `roundtable serve`.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    time::Duration,
};

use roundtable_signaling_server::{
    AddressRange, IceServer, MessageRate, NatsConfig, Server, ServerConfig, TlsConfig, TurnConfig,
};

use crate::{
    args::Serve,
    error::CliError,
    logging,
    reload::{Reloads, turn_secret},
    settings::{LogFormat, Settings},
};

/// Serves until it is told to stop.
pub(crate) fn run(args: Serve) -> Result<(), CliError> {
    // A name that is no text is none of ours.
    let environment = std::env::vars_os();
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let settings = args
        .settings
        .load(args.config.as_deref(), environment.filter_map(text))?;
    if args.print_config {
        // A reader that has gone away has had what it wants.
        let _ = write!(io::stdout(), "{settings}");
        return Ok(());
    }
    let format = settings.log_format.unwrap_or(LogFormat::Text);
    logging::start(settings.log.as_deref().unwrap_or("info"), format)?;
    crate::runtime()?.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), CliError> {
    let mut config = configuration(&settings)?;
    let mut reloads = Reloads::default();
    if let Some(path) = settings.turn_secret_file {
        let mut turn = TurnConfig::new(settings.turn, turn_secret(&path)?);
        if let Some(secs) = settings.turn_life_secs {
            turn = turn.with_ttl(Duration::from_secs(secs));
        }
        config = config.with_turn(turn.clone());
        reloads.turn = Some((path, turn));
    } else if !settings.turn.is_empty() {
        return Err(CliError::Alone {
            given: "turn",
            missing: "turn_secret_file",
        });
    }
    let scheme = match (settings.tls_cert, settings.tls_key) {
        (Some(cert), Some(key)) => {
            let tls = TlsConfig::open(cert, key)?;
            config = config.with_tls(tls.clone());
            reloads.tls = Some(tls);
            "https"
        }
        (None, None) => "http",
        (Some(_), None) => {
            return Err(CliError::Alone {
                given: "tls_cert",
                missing: "tls_key",
            });
        }
        (None, Some(_)) => {
            return Err(CliError::Alone {
                given: "tls_key",
                missing: "tls_cert",
            });
        }
    };
    let server = Server::bind(config)?;
    reloads.keys = server.grant_keys();
    reloads.on_hangup()?;
    println!("listening on {scheme}://{}/", server.local_addr());
    server.run(stopped()).await;
    Ok(())
}

/// What the settings mean to the server, but for what is read from files.
fn configuration(settings: &Settings) -> Result<ServerConfig, CliError> {
    let range = |text: &String| {
        text.parse()
            .map_err(|error| CliError::TrustedProxy(text.clone(), error))
    };
    let proxies: Result<Vec<AddressRange>, _> = settings.trusted_proxy.iter().map(range).collect();
    let mut config = ServerConfig::default()
        .with_allowed_origins(settings.allow_origin.clone())
        .with_trusted_proxies(proxies?)
        .with_ice_required(settings.turn_required == Some(true))
        .with_open(settings.open == Some(true))
        .with_open_to_all(settings.i_know == Some(true));
    if !settings.stun.is_empty() {
        let urls = settings.stun.clone();
        config = config.with_ice_servers(vec![IceServer {
            urls,
            username: None,
            credential: None,
        }]);
    }
    if let Some(listen) = settings.listen {
        config = config.with_listen(listen);
    }
    if let Some(data) = &settings.data {
        config = config.with_data_dir(data);
    }
    if let Some(nats) = cluster(settings)? {
        config = config.with_nats(nats);
    }
    if let Some(secs) = settings.drain_secs {
        config = config.with_drain(Duration::from_secs(secs));
    }
    if let Some(max) = settings.max_connections {
        config = config.with_max_connections(max);
    }
    if let Some(max) = settings.max_connections_per_address {
        config = config.with_max_connections_per_address(max);
    }
    if let Some(mib) = settings.max_queued_mib {
        config = config.with_queue_budget(mib.saturating_mul(1 << 20));
    }
    if let Some(max) = settings.max_peers {
        config = config.with_max_peers(max);
    }
    if let Some(max) = settings.max_rooms {
        config = config.with_max_rooms(max);
    }
    if let (Some(burst), Some(per_second)) = (settings.message_burst, settings.messages_per_second)
    {
        config = config.with_message_rate(Some(MessageRate { burst, per_second }));
    }
    if let (Some(grant), Some(room)) = (settings.grant_life_secs, settings.room_life_secs) {
        config = config.with_lives(Duration::from_secs(grant), Duration::from_secs(room));
    }
    Ok(config)
}

/// The NATS that joins the server to others, if it is to be one of several.
fn cluster(settings: &Settings) -> Result<Option<NatsConfig>, CliError> {
    if settings.nats.is_empty() {
        let alone = |given| CliError::Alone {
            given,
            missing: "nats",
        };
        return match settings {
            Settings {
                public_url: Some(_),
                ..
            } => Err(alone("public_url")),
            Settings {
                nats_credentials: Some(_),
                ..
            } => Err(alone("nats_credentials")),
            _ => Ok(None),
        };
    }
    let mut nats = NatsConfig::new(&settings.nats).map_err(CliError::Nats)?;
    if let Some(cluster) = &settings.nats_cluster {
        nats = nats.with_cluster(cluster).map_err(CliError::NatsCluster)?;
    }
    if let Some(url) = &settings.public_url {
        nats = nats.with_public_url(url).map_err(CliError::PublicUrl)?;
    }
    if let Some(path) = &settings.nats_credentials {
        nats = nats.with_credentials(path);
    }
    Ok(Some(nats))
}

/// Resolves when the process is asked to stop: Ctrl-C, or SIGTERM from a service manager.
pub(crate) async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
