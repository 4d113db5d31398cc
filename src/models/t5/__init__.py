"""T5 (Raffel et al., 2020) and its kin, T5 v1.1 and Flan-T5: models that read a text and answer with one."""

from src.models.t5.model import T5 as T5
