"""Bridges to other libraries; names, text and host loops stay here."""
