"""Probes, calibration, equivariance, strokes and baselines: arrays in, numbers out. Needs the extra `metrics`."""

try:
    import scipy  # noqa: F401
    import sklearn  # noqa: F401
    import threadpoolctl  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"ie_model.metrics needs {error.name}: pip install 'ie-pipeline[metrics]'", name=error.name
    ) from None
