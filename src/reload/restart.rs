use crate::config::{AccessLog, Config, Listener, LogTarget, Upstream};

/// The keys in which a configuration differs from the running one, and which stand as long as the process does.
pub fn needed_for(running: &Config, new: &Config) -> Vec<String> {
    // Taken apart whole: whoever adds a key has to say here whether it can change.
    let Config {
        threads,
        work_stealing,
        error_log,
        access_log,
        grace_period,
        cache,
        admin,
        network,
        store,
        upstreams,
        sessions: _,
        services: _,
        servers: _, // but for where they listen
        path: _,
        watch: _,
        client_timeout: _,
        keepalive_timeout,
        body_limit: _,
        trusted_proxies: _,
        files: _,
    } = new;
    let scalars = [
        ("threads", *threads == running.threads),
        ("work_stealing", *work_stealing == running.work_stealing),
        ("error_log", *error_log == running.error_log),
        ("access_log.path", target(access_log) == target(&running.access_log)),
        ("grace_period_ms", *grace_period == running.grace_period),
        ("keepalive_timeout_ms", *keepalive_timeout == running.keepalive_timeout),
        ("cache", *cache == running.cache),
        ("admin.listen", *admin == running.admin),
        ("network", *network == running.network),
        ("store", *store == running.store),
    ];
    let mut keys: Vec<_> = scalars.iter().filter(|(_, same)| !same).map(|(key, _)| (*key).to_owned()).collect();
    keys.extend(checked_upstreams(&running.upstreams, upstreams));
    keys.extend(listen(running, new));
    keys
}

fn target(log: &Option<AccessLog>) -> Option<&LogTarget> {
    log.as_ref().map(|log| &log.target)
}

/// Upstreams that came, went or changed, and whose health is or would be looked after: by services that are started once.
fn checked_upstreams(running: &[Upstream], new: &[Upstream]) -> Vec<String> {
    let differs = |upstream: &&Upstream, others: &[Upstream]| {
        upstream.health_check.is_some() && !others.iter().any(|other| other == *upstream)
    };
    let gone = running.iter().filter(|upstream| differs(upstream, new));
    let come = new.iter().filter(|upstream| differs(upstream, running));
    let mut keys: Vec<_> = gone.chain(come).map(|upstream| format!("upstream.{}", upstream.name)).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn listen(running: &Config, new: &Config) -> Option<String> {
    let key = |listener: &Listener| (listener.addr, listener.tls, listener.h2);
    let (running, new) = (running.listeners(), new.listeners());
    let (running, new): (Vec<_>, Vec<_>) = (running.iter().map(key).collect(), new.iter().map(key).collect());
    let gone = running.iter().filter(|listener| !new.contains(listener));
    let come = new.iter().filter(|listener| !running.contains(listener));
    let mut differ: Vec<_> = gone.chain(come).map(|(addr, ..)| addr.to_string()).collect();
    differ.sort();
    differ.dedup();
    (!differ.is_empty()).then(|| format!("server.listen ({})", differ.join(", ")))
}
