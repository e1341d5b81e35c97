"""Bridges to other libraries; names, text and host loops stay here."""

from l2o.interop import celo as celo
