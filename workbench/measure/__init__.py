"""What makes data/measurements: each module is a command that writes JSON with machine, versions, date and commit.

``referee`` (the judge against truth), ``pipeline_cpu``, ``pipelines`` and ``stages`` (full-size models on GPUs, as
shapes), ``wan_chunk``, ``adapter_step``, ``latent_claim``, ``late_lips``, ``pauses``, ``level``, ``soak``, ``rows_cpu``
and ``sweep_cpu`` (rows, served judges, a thousand recordings).
"""
