from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from guestbook.forms import EntryForm
from guestbook.models import Entry

SHOWN = 50


@require_http_methods(["GET", "HEAD", "POST"])
def guestbook(request):
    form = EntryForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        return redirect("guestbook")
    entries = Entry.objects.all()[:SHOWN]
    return render(request, "guestbook/index.html", {"form": form, "entries": entries})
