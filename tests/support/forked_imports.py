"""What `forked` has imported before it forks."""

from importlib import import_module

for _name in (
    "torch.distributed",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "nnsight",
    "sklearn.linear_model",
    "plotly.graph_objects",
    "hooked.load",
    "hooked.store",
    "probes.run",
    "probes.report",
    "sae.run",
    "sae.report",
    "commands.probe_train",
    "commands.sae_train",
):
    import_module(_name)
