"""The workbench: what makes the models (``train``) and the measurements (``measure``). The library never imports it."""
