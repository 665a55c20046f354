"""What a configuration may name in `_target_`: classes that are meant for it, and a few functions.

An entry is a full name, or `package.*`: the classes that are defined in that package, never its functions.
Of other libraries only classes of a `Kind` count. What is not listed is refused, however harmless: a class or
function joins the list when a file of conf/ names it, and only then.

A system needs no entry. Its classes may be named, and those functions that the `__init__.py` of its package
lists: `CONFIGURABLE = ("module.function", …)`.
"""

OWN_MODEL = (
    "portraitgen.diffusion.*",
    "portraitgen.diffusion.sampling.sample",
    "portraitgen.faces.conditioner.FaceConditioner",
    "portraitgen.faces.conditioner.untrained_conditioner",
    "portraitgen.faces.eva_clip.load_eva_clip",
    "portraitgen.faces.parsing.parser.load_parser",
    "portraitgen.faces.recognition.*",
    "portraitgen.faces.recognition.recognizer.load_recognition",
    "portraitgen.nn.*",
    "portraitgen.training.optim.warmup_constant",
    "portraitgen.training.optim.warmup_cosine",
    "portraitgen.training.optim.warmup_cosine_restarts",
)
"""Of portraitgen: what builds models, and so may stand in a weights file too."""

OWN_COMMAND = (
    *OWN_MODEL,
    "portraitgen.data.clip_examples.ClipExamples",
    "portraitgen.data.datamodule.ShardDataModule",
    "portraitgen.data.engines.*",
    "portraitgen.data.motion.MotionFrames",
    "portraitgen.data.pair_examples.PairExamples",
    "portraitgen.data.photo_examples.PhotoExamples",
    "portraitgen.data.prepare.masks.*",
    "portraitgen.data.prepare.sam2.Sam2Masks",
    "portraitgen.data.remote.settings.RemoteShards",
    "portraitgen.faces.dlib.DlibBackend",
    "portraitgen.faces.insightface.InsightFaceBackend",
    "portraitgen.faces.mediapipe.MediaPipeBackend",
    "portraitgen.losses.*",
    "portraitgen.media.interpolation.*",
    "portraitgen.metrics.checks.Check",
    "portraitgen.metrics.graders.*",
    "portraitgen.runs.prepare.features.*",
    "portraitgen.runs.prepare.lip_sync.LipSyncScores",
    "portraitgen.runs.train.clip_grading.ClipGrading",
    "portraitgen.training.checkpoint.LastCheckpoint",
    "portraitgen.training.ema.EMA",
    "portraitgen.training.export.WeightsExport",
    "portraitgen.training.fsdp.FullySharded",
    "portraitgen.training.health.Health",
    "portraitgen.training.loss_log.LossLog",
    "portraitgen.training.preemption.Preemption",
    "portraitgen.training.progress.TrainingProgress",
    "portraitgen.training.run_log.CsvLog",
    "portraitgen.training.samples.SampleLogger",
    "portraitgen.training.stage.TrainingStage",
    "portraitgen.training.step_seed.StepSeed",
    "portraitgen.training.throughput.Throughput",
    "portraitgen.training.wandb_log.WandbLog",
    "portraitgen.training.zero.Zero",
)
"""Of portraitgen: what a command's configuration may name."""

MODEL_KINDS = {
    "torch.nn": "torch.nn.modules.module.Module",
    "torch.optim": "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "prodigyopt": "torch.optim.optimizer.Optimizer",
    "diffusers.models": "torch.nn.modules.module.Module",
    "diffusers.pipelines.flux.modeling_flux": "torch.nn.modules.module.Module",
    "diffusers.schedulers": "diffusers.schedulers.scheduling_utils.SchedulerMixin",
    "transformers.models": "transformers.modeling_utils.PreTrainedModel",
}
"""Of other libraries: package → what its class must be a subclass of. Weights files may name these."""

COMMAND_KINDS = {
    **MODEL_KINDS,
    "lightning.pytorch.callbacks": "lightning.pytorch.callbacks.callback.Callback",
    "lightning.pytorch.loggers": "lightning.fabric.loggers.logger.Logger",
    "lightning.pytorch.plugins": "object",
    "lightning.fabric.plugins": "object",
    "lightning.pytorch.profilers": "lightning.pytorch.profilers.profiler.Profiler",
    "lightning.pytorch.strategies": "lightning.pytorch.strategies.strategy.Strategy",
    "lightning.pytorch.trainer": "lightning.pytorch.trainer.trainer.Trainer",
}

FACTORIES = ("from_pretrained",)
"""Class methods that may be named beside classes."""

FACTORY_ARGUMENTS = frozenset(
    {
        *("pretrained_model_name_or_path", "path", "subfolder", "variant", "dtype", "torch_dtype"),
        *("low_cpu_mem_usage", "use_safetensors"),
    }
)
"""Keywords for a factory that hands its **kwargs on to a library.

What libraries take beside these runs code of a model's folder (`trust_remote_code`, `custom_pipeline`),
unpickles its weights (`weights_only: false`), fetches compiled code (`attn_implementation`,
`allow_all_kernels`), or writes outside of the run (`offload_folder`, `cache_dir`).
"""

REFUSED_ARGUMENTS = {
    "lightning.pytorch.loggers.wandb.WandbLogger": ("settings",),  # may send the key to another server
    "portraitgen.training.wandb_log.WandbLog": ("settings",),
}
"""Class → arguments that no configuration may give."""
