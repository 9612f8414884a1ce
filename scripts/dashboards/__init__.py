"""The Grafana dashboards: a module a board, its rows and their panels in the order in which they are shown."""

from dashboards import audit, models, security, service

BOARDS = {"service": service.BOARD, "security": security.BOARD, "models": models.BOARD, "audit": audit.BOARD}
