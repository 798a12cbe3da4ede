from src.ai.messages.messages import AI_ERRORS, AI_SUCCESS, MESSAGES, SETTINGS_ERRORS

__all__ = ["AI_ERRORS", "AI_SUCCESS", "MESSAGES", "SETTINGS_ERRORS"]
