"""Text for calibration and evaluation: documents, and prompts of an exact length made of them."""

from __future__ import annotations

from moa_tools.text.corpus import Document, builtin_documents, user_documents
from moa_tools.text.fit import Needle, chat_ids, fit, paragraphs, sentences

__all__ = [
    "Document",
    "Needle",
    "builtin_documents",
    "chat_ids",
    "fit",
    "paragraphs",
    "sentences",
    "user_documents",
]
