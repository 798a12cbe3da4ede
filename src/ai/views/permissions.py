"""Who may do what over HTTP."""

from rest_framework.permissions import SAFE_METHODS, IsAdminUser
from rest_framework.request import Request
from rest_framework.views import APIView


class StaffReadsSuperuserWrites(IsAdminUser):
    """Any admin reads; only superusers change anything."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not super().has_permission(request, view):
            return False
        return request.method in SAFE_METHODS or bool(request.user.is_superuser)
