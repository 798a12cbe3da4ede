from src.core.models.base import BaseModel

__all__ = ["BaseModel"]
