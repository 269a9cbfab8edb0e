//! A session server dies under load: its clients are rehomed and told, the others notice nothing.

use std::collections::BTreeMap;

use crate::crowd::{Crowd, Customer, Seen, customers};
use crate::shop::{Shop, processes, until_gone};
use crate::support::{Admin, until};

#[tokio::test]
async fn a_killed_backend_costs_its_clients_their_login_and_nobody_anything_else() {
    let mut backends = processes(["red", "green", "blue"]);
    let stickpin = Shop::of(backends.iter().map(|backend| backend.yaml())).open().await;
    let mut admin = stickpin.admin();
    let everybody = customers(&stickpin, 200).await;
    for backend in &backends {
        let at_home = everybody.iter().filter(|customer| customer.home == backend.name()).count();
        assert!((50..=84).contains(&at_home), "{} has {at_home} of 200", backend.name());
    }

    let crowd = Crowd::start(everybody);
    crowd.rounds(5).await;
    let dead = &mut backends[1];
    dead.kill();
    until_gone(&mut admin, dead.name()).await;
    crowd.rounds(5).await;
    let everybody = crowd.stop().await;

    let (orphans, others): (Vec<_>, Vec<_>) = everybody.into_iter().partition(|it| it.home == dead.name());
    others.iter().for_each(Customer::assert_undisturbed);
    let heirs: Vec<String> = orphans.iter().map(assert_rehomed_once).collect();
    let red = heirs.iter().filter(|heir| *heir == "red").count();
    let share = red as f64 / heirs.len() as f64;
    assert!((0.4..=0.6).contains(&share), "red inherited {red} of {}", heirs.len());
    assert_metrics_agree(&mut admin, &orphans, &others).await;

    dead.restart().unwrap();
    admin.until_health("shop", dead.name(), "healthy").await;
    let settled = orphans.into_iter().zip(heirs).map(|(it, heir)| Customer { home: heir, ..it }).chain(others);
    let crowd = Crowd::start(settled.map(|it| Customer { seen: Vec::new(), ..it }).collect());
    crowd.rounds(5).await;
    for customer in crowd.stop().await {
        assert_eq!(customer.path(), [&customer.home], "nobody moves back");
        assert!(customer.told().is_empty());
    }
}

/// Served at home, then perhaps on detours, then told once that its home is another; gives the heir.
fn assert_rehomed_once(orphan: &Customer) -> String {
    assert_eq!(orphan.failures(), [""; 0], "{}", orphan.user);
    let told = orphan.told();
    assert_eq!(told.len(), 1, "{}: {:?}", orphan.user, orphan.seen);
    let heir = told[0]["served_by"].as_str().unwrap();
    assert_eq!(told[0]["rehomed_from"], *orphan.home);
    assert_eq!((&told[0]["rehome_reason"], &told[0]["session_lost"]), (&"gone".into(), &"gone".into()));
    assert_eq!(orphan.path(), [&*orphan.home, heir], "{}", orphan.user);
    heir.to_owned()
}

async fn assert_metrics_agree(admin: &mut Admin, orphans: &[Customer], others: &[Customer]) {
    let everybody = || orphans.iter().chain(others);
    let placed = |customer: &Customer| {
        let is_home = |seen: &&Seen| seen.served_by() == customer.home;
        let kept = customer.seen.iter().filter(is_home).count();
        let away = customer.seen.len() - kept;
        // The moment it is told it moves; from then on it is kept at its new home.
        let before = customer.seen.iter().skip(kept).take_while(|seen| !seen.is_told()).count();
        let told = customer.told().len();
        [("kept", kept + away - before - told), ("detour", before), ("rehomed", told)]
    };
    let mut expected = BTreeMap::from([("new", 200)]);
    for (placement, count) in everybody().flat_map(placed) {
        *expected.entry(placement).or_default() += count;
    }
    // A request is counted when its reply has been passed on, which may be a moment after the client has it.
    until("every request is counted", async || {
        let mut counted = BTreeMap::new();
        for placement in ["new", "kept", "detour", "rehomed"] {
            let label = format!("placement=\"{placement}\"");
            counted.insert(placement, admin.metric("stickpin_placements_total", &[&label]).await as usize);
        }
        if counted == expected { Ok(()) } else { Err(format!("counted {counted:?}, seen {expected:?}")) }
    })
    .await;
    let count = orphans.len() as f64;
    let gone = ["from=\"green\"", "reason=\"gone\""];
    assert_eq!(admin.metric("stickpin_rehomes_total", &gone).await, count);
    assert_eq!(admin.metric("stickpin_rehomes_total", &[]).await, count);
    for heir in ["red", "blue"] {
        let seen = orphans.iter().filter(|it| it.path().last() == Some(&heir)).count();
        let label = format!("to=\"{heir}\"");
        assert_eq!(admin.metric("stickpin_rehomes_total", &[&label]).await, seen as f64, "to {heir}");
    }
    assert_eq!(admin.metric("stickpin_placements_total", &["reason=\"gone\""]).await, count);
    assert_eq!(admin.metric("stickpin_sessions_lost_total", &[]).await, count);
    let answers = everybody().map(|customer| customer.seen.len() + 1).sum::<usize>() as f64;
    assert_eq!(admin.metric("stickpin_requests_total", &["code=\"200\""]).await, answers);
    assert_eq!(admin.metric("stickpin_requests_total", &[]).await, answers);
}
