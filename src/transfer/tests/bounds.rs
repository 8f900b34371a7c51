//! What a hostile registry may cost before it is refused.

use serde_json::json;

use super::*;
use crate::transfer::Plan;

async fn plan(registry: Registry, tag: &str) -> (Plan, Arc<Registry>) {
    let registry = Arc::new(registry);
    let sink: Arc<dyn Sink> = Arc::new(In(Arc::default()));
    (transfer().plan(vec![job(&registry, tag, &sink)]).await.unwrap(), registry)
}

fn why(plan: &Plan) -> String {
    plan.failed[0].1.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_child_that_an_index_names_a_thousand_times_is_asked_for_once() {
    let mut registry = Registry::default();
    registry.image("1", &[]);
    let child = registry.tags["1"].clone();
    let inner = registry.manifest("inner", &json!({"schemaVersion": 2, "manifests": vec![&child; 1000]}));
    registry.manifest("outer", &json!({"schemaVersion": 2, "manifests": [&child, &inner, &inner]}));
    let (plan, registry) = plan(registry, "outer").await;
    assert_eq!(plan.images[0].manifests.len(), 3);
    assert_eq!(registry.asked_for(&child).len(), 1);
    assert_eq!(registry.asked_for(&inner).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn sizes_whose_sum_no_number_holds_are_refused() {
    let mut registry = Registry::default();
    let mut layers: Vec<Descriptor> = (5..8).map(|seed| registry.blob(10, seed)).collect();
    layers.iter_mut().for_each(|layer| layer.size = i64::MAX as u64);
    registry.image("1", &layers.iter().collect::<Vec<_>>());
    let (plan, _) = plan(registry, "1").await;
    assert!(why(&plan).contains("its blobs are said to have more than"), "{}", why(&plan));
    assert_eq!(plan.totals().size, 0);
}

#[tokio::test(start_paused = true)]
async fn manifests_that_fill_the_memory_are_refused_before_they_are_all_read() {
    const COUNT: usize = 60;
    let mut registry = Registry::default();
    let large = |n: usize| json!({"schemaVersion": 2, "manifests": [], "annotations": {"x": format!("{n}{}", " ".repeat(4_000_000))}});
    let children: Vec<Descriptor> = (0..COUNT).map(|n| registry.manifest("child", &large(n))).collect();
    registry.manifest("root", &json!({"schemaVersion": 2, "manifests": children}));
    let (plan, registry) = plan(registry, "root").await;
    assert!(why(&plan).contains("bytes of them"), "{}", why(&plan));
    let asked = lock(&registry.asked).len();
    assert!(asked < COUNT, "{asked}");
}
