"""A merging method from its configuration."""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError
from src.merging.method import Method

SUGAR = (
    "apply_lines",
    "depth_pattern",
    "use_ties",
    "own_base",
    "ties_base",
    "load_mask",
)  # of method=, and no field of its class


def build_method(config: DictConfig) -> Method:
    """The merging method, over TIES and under LiNeS if asked, over the grid asked for."""
    fields = _without_sugar(OmegaConf.to_container(config.method, resolve=True))
    if config.specify_lambda is not None and "grid" in fields:
        fields["grid"] = [config.specify_lambda]
    method = instantiate(fields, _convert_="all")
    for flag in ("apply_lines", "use_ties"):
        if config.method.get(flag, False) not in (True, False):
            raise UserError(f"method.{flag} is true or false; got {config.method[flag]}")
    if config.method.apply_lines:
        method = method.by_depth()
    respaced = config.n_eval_points is not None and config.specify_lambda is None
    return method.respaced(config.n_eval_points) if respaced else method


def _without_sugar(fields: dict) -> dict:
    """The fields of a method's class: without what other code reads, the base exchanged where use_ties asks for it."""
    kept = {key: value for key, value in fields.items() if key not in SUGAR}
    if fields.get("use_ties") is True:
        if kept["base"] != fields["own_base"]:
            raise UserError("method.use_ties=True masks TIES, and method.base says what else to mask; give one of the two")
        kept["base"] = fields["ties_base"]
    return {key: _without_sugar(value) if isinstance(value, dict) and "_target_" in value else value
            for key, value in kept.items()}  # fmt: skip


def specified_coefficient(config: DictConfig, method: Method, tasks: int) -> float | None:
    """The one coefficient to use: the user's, or the method's own fixed one; None if it is to be searched."""
    if config.specify_lambda is not None:
        if method.makes_masks and config.method.get("load_mask", False):
            raise UserError("specify_lambda makes masks and method.load_mask loads them; give one of the two")
        method.check_coefficient(float(config.specify_lambda), tasks)
        return float(config.specify_lambda)
    own = method.coefficients(tasks)
    return own[0] if len(own) == 1 else None
