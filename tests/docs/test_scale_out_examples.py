"""The examples of docs/scale-out/: YAML that fits the graph and, where dagster-k8s is installed, its config schema."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dagster._config import process_config

from pipelines.definitions import build_defs
from resources.config import GapConfig

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "scale-out"


def example(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def settings() -> dict:
    return example("kubernetes-values.yaml")["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]


def test_the_steps_on_the_gpu_are_those_of_the_gpu_pool():
    folder = {"reader": "streets", "scene": "city"}
    raw = {"classes": ["road", "sky"], "source": {"name": "city", **folder}, "targets": [{"name": "kitti", **folder}]}
    job = build_defs(GapConfig.model_validate(raw)).resolve_job_def("gap_check_kitti")
    pooled = {node.name for node in job.graph.nodes if node.definition.pool == "gpu"}
    given = example("kubernetes-steps.yaml")["execution"]["config"]["per_step_k8s_config"]
    assert given.keys() == pooled
    assert all(step["container_config"]["resources"]["limits"] == {"nvidia.com/gpu": 1} for step in given.values())


def test_runs_start_on_the_gpu_pool_with_an_image_that_is_the_projects_own():
    values = example("kubernetes-values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["dagsterApiGrpcArgs"] == ["-m", "pipelines.definitions"]
    assert {"name": "GAP_CONFIG", "value": "/config/gap.yaml"} in deployment["env"]
    assert {mount["name"] for mount in deployment["volumeMounts"]} == {one["name"] for one in deployment["volumes"]}
    assert settings()["containerConfig"]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert values["postgresql"]["enabled"] is False and "postgresqlPassword" not in values["postgresql"]


def test_the_config_of_dask_fits_its_executor():
    dask = pytest.importorskip("dagster_dask")
    found = process_config(dask.dask_executor.config_schema.config_type, example("dask.yaml")["execution"]["config"])
    assert found.success, found.errors


def test_kubernetes_examples_fit_the_schema_of_dagster_k8s():
    k8s = pytest.importorskip("dagster_k8s")
    from dagster_k8s.job import UserDefinedDagsterK8sConfig

    config = example("kubernetes-steps.yaml")["execution"]["config"]
    found = process_config(k8s.k8s_job_executor.config_schema.config_type, config)
    assert found.success, found.errors
    for step in config["per_step_k8s_config"].values():
        UserDefinedDagsterK8sConfig.from_dict(step)
    run = {"container_config": settings()["containerConfig"], "pod_spec_config": settings()["podSpecConfig"]}
    names = ("service_account_name", "instance_config_map", "dagster_home", "postgres_password_secret")
    found = process_config(k8s.K8sRunLauncher.config_type(), {**dict.fromkeys(names, "x"), "run_k8s_config": run})
    assert found.success, found.errors
    UserDefinedDagsterK8sConfig.from_dict(run)
