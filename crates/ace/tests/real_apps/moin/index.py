from MoinMoin.web.serving import make_application

application = make_application(shared=True)
